"""The plugin: options become items, and a plain run says what it needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.report.rules import DOCS, read_rules
from tests.builders.elfwriter import ElfWriter
from tests.kernel.test_orc import GROUPS

# Groups that other items are for, and the one that takes --dwarf to be looked at.
OTHERS = {"boot", "readback", "runtime", "shadow", "dwarf"}
ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str, **environ: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-v", "tests/kernel", *arguments],
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr


def test_a_plain_run_says_what_it_needs() -> None:
    """No kernel: every item is skipped for that reason, and the header has it too."""
    said = run()

    assert said.count("needs --artifacts DIR") >= 2
    assert "passed" not in said


def test_every_object_and_group_of_rules_is_an_item(tmp_path: Path) -> None:
    """Stable ids: kernel, object, rules."""
    for name in ("a.ko", "b.ko"):
        (tmp_path / name).write_bytes(ElfWriter().build())

    said = run("--artifacts", str(tmp_path), "-m", "static")

    for name in ("a.ko", "b.ko"):
        for rules in GROUPS:
            assert f"test_orc[{tmp_path.name}-{name}-{rules}] PASSED" in said


def test_no_rule_falls_between_the_groups() -> None:
    """Every rule that has a section in docs/findings.md is some item's."""
    rules = [name for name in read_rules(DOCS.read_text()) if "/" in name]

    assert {name.partition("/")[0] for name in rules} == OTHERS | {*GROUPS}


@pytest.mark.parametrize("workers", ["0", "2"])
def test_workers_see_the_same_items(tmp_path: Path, workers: str) -> None:
    """xdist splits them: what is to be tested is found out once."""
    (tmp_path / "a.ko").write_bytes(ElfWriter().build())

    said = run("--artifacts", str(tmp_path), "-m", "static", "-n", workers)

    assert f"{len(GROUPS)} passed" in said


def test_a_directory_without_a_kernel_is_a_usage_error(tmp_path: Path) -> None:
    """One line and its remedy, before collection."""
    said = run("--artifacts", str(tmp_path))

    assert "has no vmlinux" in said
    assert "Traceback" not in said


def test_a_build_that_cannot_start_is_a_usage_error() -> None:
    """It is asked for before collection, and ends the run with its reason."""
    said = run("--kernel-tree", "default", DOCKER_HOST="unix:///nowhere.sock")

    assert "daemon answers" in said
    assert "INTERNALERROR" not in said
    assert "Traceback" not in said
