"""A run's result keeps statuses apart and survives JSON."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import ExitCode, FormatError
from harness.finding import Finding, Location
from harness.result import (
    SCHEMA,
    RunResult,
    Stage,
    StageResult,
    Status,
    dump,
    exit_code,
    load,
)

FINDING = Finding("boot/panic", Location("vmlinux", "panic", 0), "the kernel panicked")


def stage(status: Status, code: int = 0) -> StageResult:
    return StageResult(Stage.BOOT, "xen", status, exit_code=code)


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ([], ExitCode.CLEAN),
        ([stage(Status.PASS), stage(Status.MISS)], ExitCode.CLEAN),
        ([stage(Status.FAIL), stage(Status.PASS)], ExitCode.FINDINGS),
        ([stage(Status.FAIL), stage(Status.ERROR, 3)], ExitCode.INFRASTRUCTURE),
        ([stage(Status.ERROR, 2), stage(Status.ERROR, 3)], ExitCode.INFRASTRUCTURE),
        ([stage(Status.ERROR)], ExitCode.INTERNAL),
    ],
)
def test_exit_code(stages: list[StageResult], expected: ExitCode) -> None:
    """A missing verdict outranks a bad one; MISS is neither."""
    assert exit_code(stages) == expected


def test_json_round_trip(tmp_path: Path) -> None:
    """What is dumped loads equal, findings included."""
    result = RunResult(
        SCHEMA,
        "r1",
        "2026-01-01T00:00:00Z",
        1.5,
        "small",
        "linux",
        {"qemu": "10.0"},
        (StageResult(Stage.BOOT, "xen", Status.FAIL, findings=(FINDING,)),),
    )
    path = tmp_path / "result.json"

    path.write_bytes(dump(result))

    assert load(path) == result


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"schema": "other/9"}'])
def test_foreign_json_is_a_format_error(tmp_path: Path, text: str) -> None:
    """Anything else is refused with the file's name."""
    path = tmp_path / "result.json"
    path.write_text(text)

    with pytest.raises(FormatError, match=r"result\.json"):
        load(path)
