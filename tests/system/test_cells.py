"""The matrix with real kernels and guests: killed in the middle, it goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.cache import cache_dir

CELLS = ["6.12-gcc12-native", "6.12-gcc12-native-mitigations-off", "6.12-gcc12-vsmp"]
LIMIT_S = 1800


def argv(report: Path, *arguments: str) -> list[str]:
    """Return the command that runs the matrix of the three."""
    made = [sys.executable, "-m", "harness", "matrix", *CELLS, "--format", "json"]
    return [*made, "--report", str(report), *arguments]


@pytest.mark.boot
@pytest.mark.build
@pytest.mark.slow
def test_a_night_that_is_killed_goes_on(tmp_path: Path) -> None:
    """What was finished is not made again; the rest is; the next night makes nothing."""
    log = tmp_path / "log"
    with log.open("w") as errors:
        first = subprocess.Popen(
            argv(tmp_path, "--again"), stdout=subprocess.DEVNULL, stderr=errors
        )
    deadline = time.monotonic() + LIMIT_S
    kept = set[str]()
    started = time.time()
    while not kept:
        assert first.poll() is None, log.read_text()[-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.2)
        cells = (cache_dir() / "cells").glob("*.json")
        kept = {path.name for path in cells if path.stat().st_mtime >= started}
    os.kill(first.pid, signal.SIGKILL)
    first.wait(60)
    times = {name: (cache_dir() / "cells" / name).stat().st_mtime_ns for name in kept}

    second = subprocess.run(
        argv(tmp_path, "--again"),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    third = subprocess.run(
        argv(tmp_path), capture_output=True, text=True, timeout=LIMIT_S, check=False
    )

    assert second.returncode == 0, second.stderr[-2000:]
    assert "going on with the run" in second.stderr
    assert "3 cells: 3 made in this run" in second.stderr
    for name, made in times.items():
        assert (cache_dir() / "cells" / name).stat().st_mtime_ns == made
    assert third.returncode == 0
    assert "3 cells: 0 made in this run, 3 unchanged" in third.stderr
    stages = json.loads(third.stdout)["stages"]
    assert {stage["variant"] for stage in stages} == set(CELLS)
    assert {stage["status"] for stage in stages} == {"PASS"}
    assert any("answered by the run" in note for s in stages for note in s["notes"])
