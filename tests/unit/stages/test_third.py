"""The stage of the third opinion: its statuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import kernel_build
from harness.boot.third import MissingDrgn, Third
from harness.progress import silent
from harness.result import Stage, StageResult, Status
from harness.stages import third

COUNTS = {"tasks_asked": 3}


def staged(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    came: Third | Exception,
    read_back: Status = Status.PASS,
) -> StageResult:
    """What the stage says if that came of the dump."""
    core = directory / "core"
    core.write_bytes(b"")
    (directory / "vmlinux").write_bytes(b"")

    def opinion(*_: object) -> Third:
        if isinstance(came, Exception):
            raise came
        return came

    monkeypatch.setattr(kernel_build, "find", lambda _: _Build(directory))
    monkeypatch.setattr(third, "load", lambda _: None)
    monkeypatch.setattr(third, "map_file", lambda _: b"")
    monkeypatch.setattr(third, "parse_core", lambda *_: None)
    monkeypatch.setattr(third, "DumpMemory", lambda *_: None)
    monkeypatch.setattr(third, "third_opinion", opinion)
    before = StageResult(Stage.READBACK, core.name, read_back)
    return third.stage(core, directory, before, silent)


class _Build:
    def __init__(self, directory: Path) -> None:
        self.kernels = (directory / "vmlinux",)


def test_a_difference_is_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two unwinders one is wrong, and not the kernel."""
    result = staged(tmp_path, monkeypatch, Third(COUNTS, ("drgn disagrees",), ""))
    assert (result.stage, result.status) == (Stage.COMPARE, Status.PASS)
    assert (result.notes, result.counts) == (("drgn disagrees",), COUNTS)


def test_what_proves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A control that was not seen is an ERROR of ours."""
    result = staged(tmp_path, monkeypatch, Third(COUNTS, (), "control did not fail"))
    assert (result.status, result.reason) == (Status.ERROR, "control did not fail")


def test_no_drgn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a MISS, which fails nothing."""
    missing = MissingDrgn("drgn is not installed", hint="install it")
    result = staged(tmp_path, monkeypatch, missing)
    assert (result.status, result.reason) == (Status.MISS, "drgn is not installed")
    assert result.hint == "install it"


def test_a_dump_that_was_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why not is said once."""
    nothing = Third({}, (), "")
    result = staged(tmp_path, monkeypatch, nothing, Status.ERROR)
    assert result.status is Status.SKIP
