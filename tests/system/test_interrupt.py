"""Ctrl-C and SIGTERM end a run at once and leave no container behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import run

LIMIT_S = 120


def containers(pid: int) -> list[str]:
    """Names of the containers that process ``pid`` owns."""
    listed = run.check(
        ["docker", "ps", "--all", "--format", "{{.Names}}"], timeout_s=30
    )
    return [name for name in listed.split() if name.startswith(f"orc-harness-{pid}-")]


@pytest.mark.build
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_build_is_interrupted(tmp_path: Path, number: signal.Signals) -> None:
    """Exit code 130, one line, no container, nothing in the store."""
    config = tmp_path / "seed.config"
    config.write_text(f'CONFIG_64BIT=y\nCONFIG_LOCALVERSION="-{number}"\n')
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", "build", "--config", str(config)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    assert process.stderr is not None
    deadline = time.monotonic() + LIMIT_S
    while not containers(process.pid):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.2)

    os.kill(process.pid, number)
    _, said = process.communicate(timeout=LIMIT_S)

    assert process.returncode == 130
    assert "interrupted" in said
    assert "Traceback" not in said
    assert containers(process.pid) == []
