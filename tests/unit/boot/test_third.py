"""The third opinion: drgn itself, on a dump that was made here."""

from __future__ import annotations

import importlib.util
import struct
import sys
from pathlib import Path

import pytest

from harness.boot import third
from harness.boot.third import MissingDrgn, Third, third_opinion
from tests.builders import image
from tests.builders.dumped import dumped, linked, memory_of, write_core
from tests.builders.guest import SLEEPER_STACK, SimulatedGuest

INSTALLED = pytest.mark.skipif(
    importlib.util.find_spec("drgn") is None, reason="SKIP: drgn is not installed"
)


def told(directory: Path, guest: SimulatedGuest | None = None) -> Third:
    """What comes of a dump of ``guest``."""
    core, program = directory / "core", linked()
    write_core(guest or dumped(), core)
    return third_opinion(program, core, memory_of(core, program))


@INSTALLED
def test_drgn_agrees(tmp_path: Path) -> None:
    """Every task that sleeps, frame by frame; a wrong entry makes it go astray."""
    result = told(tmp_path)
    assert (result.reason, result.notes) == ("", ())
    assert result.counts["tasks_asked"] == result.counts["agree"] == 2
    assert result.counts["tasks_running"] == result.counts["tasks_without_stack"] == 1
    assert result.counts["frames"] == 6
    assert result.counts["control_reported"] == 1


@INSTALLED
def test_where_drgn_disagrees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told which frame of which task, and by name."""
    program = linked()
    wrong = third._broken(program, [offset for offset, _ in image.TABLE].index(0x500))
    monkeypatch.setattr(
        third, "table_file", lambda _, right=third.table_file: right(wrong)
    )
    result = told(tmp_path)
    assert (result.counts["agree"], result.counts["differ"]) == (0, 2)
    assert all(
        note.startswith("drgn disagrees about the task at") for note in result.notes
    )
    assert "frame 2 is nothing, by the table ret_from_fork_asm+0x5" in result.notes[0]
    assert result.reason.startswith("control could not run")


@INSTALLED
def test_drgn_that_sees_no_wrong_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the control does not fail there is no verdict."""
    monkeypatch.setattr(third, "_broken", lambda program, _: program)
    result = told(tmp_path)
    assert result.reason == "control did not fail: drgn did not see a wrong entry"


@INSTALLED
def test_a_stack_that_both_give_up_on(tmp_path: Path) -> None:
    """It is told; no finding can be made of a task that nobody can ask."""
    guest = dumped()
    guest.word(SLEEPER_STACK + 0x3000 + image.SAVED + 16 + 16, 0x1234)
    result = told(tmp_path, guest)
    assert result.counts["unreliable"] == 1
    assert result.notes[0].startswith("both give up on the task at")


def test_without_drgn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is a MISS, and what to install."""
    monkeypatch.setitem(sys.modules, "drgn", None)
    with pytest.raises(MissingDrgn, match="drgn is not installed") as caught:
        told(tmp_path)
    assert "orc-harness[drgn]" in str(caught.value.hint)


@INSTALLED
def test_a_file_that_drgn_does_not_take(tmp_path: Path) -> None:
    """A dump of another kind is a MISS with drgn's own words."""
    core, program = tmp_path / "core", linked()
    write_core(dumped(), core)
    memory = memory_of(core, program)
    other = tmp_path / "other"
    other.write_bytes(b"KDUMP   " + struct.pack("<I", 6) + bytes(4096))
    with pytest.raises(MissingDrgn, match="cannot take other"):
        third_opinion(program, other, memory)
