"""A whole probe of a simulated guest: honest, blind, short-sighted, dead."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.boot import compare, control, point, reliable, traces, watch
from harness.boot.compare import CompareResult, probe
from harness.boot.gdb import Gdb
from harness.boot.needs import Needs
from harness.errors import FormatError, InfraError
from tests.builders import image
from tests.builders.guest import SLEEPER, STATES, SimulatedGuest, at
from tests.builders.rspserver import serving

SMALL = Needs(points=12, entry_context=0, inside_replacement=2, inside_other_cfa=1)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A simulated guest gets everywhere at once, or never."""
    monkeypatch.setattr(watch, "HIT_S", 0.02)
    monkeypatch.setattr(watch, "ENTRY_HIT_S", 0.02)
    monkeypatch.setattr(compare, "TASK_HIT_S", 0.02)


@contextmanager
def connected(directory: Path, guest: SimulatedGuest) -> Iterator[Gdb]:
    """Yield a client that is connected to ``guest``."""
    path = directory / "gdb.sock"
    with serving(guest, path), Gdb.connect(path, timeout_s=5) as gdb:
        yield gdb


def run(
    directory: Path,
    guest: SimulatedGuest,
    needs: Needs = SMALL,
    deadline_s: float = 20,
) -> CompareResult:
    """Probe ``guest``."""
    program, _ = image.image()
    with connected(directory, guest) as gdb:
        return probe(gdb, program, deadline_s=deadline_s, needs=needs)


def test_honest_guest(tmp_path: Path) -> None:
    """All points agree, the control was seen, patched starts were hit."""
    guest = SimulatedGuest()
    result = run(tmp_path, guest)
    assert result.reason == ""
    assert result.findings == ()
    assert result.counts["points"] >= 12
    assert result.counts["agree"] == result.counts["points"]
    assert result.counts["control_reported"] == result.counts["control_clean"] == 1
    assert result.counts["sites_patched"] == 1
    assert result.counts["inside_replacement"] == 2
    assert result.counts["inside_other_cfa"] == 1
    assert guest.breakpoints == set()


def test_blind_guest(tmp_path: Path) -> None:
    """A guest that does not see the planted fault makes the run no verdict."""
    result = run(tmp_path, SimulatedGuest(blind=True))
    assert result.reason == "control did not fail: a wrong entry went unseen"
    assert result.counts["points"] == 1


def test_wrong_entry_in_the_guest(tmp_path: Path) -> None:
    """A runtime table that is not the image's is found whole and in traces."""
    guest = SimulatedGuest()
    caller = [offset for offset, _ in image.TABLE].index(0x411)
    guest.load(image.ORC + 4 * len(image.TABLE) + 6 * caller, b"\x18\0")
    result = run(tmp_path, guest)
    rules = {finding.rule for finding in result.findings}
    assert rules == {"runtime/table-differs", "runtime/unwind-differs"}
    assert result.counts["table_entries_differ"] == 1
    differs = next(f for f in result.findings if f.rule == "runtime/unwind-differs")
    assert str(differs.location) == "leaf+0x11"
    assert differs.declared == "sp+16 call"
    assert len(differs.window) <= 25
    assert max(map(len, differs.window)) <= 100
    assert any(line.startswith(">  1") for line in differs.window)


def test_the_guest_is_left_at_the_first_finding(tmp_path: Path) -> None:
    """It stands where the two unwinds differ, without a breakpoint of ours."""
    guest = SimulatedGuest(trusts_none=True)
    program, _ = image.image()
    with connected(tmp_path, guest) as gdb:
        result = probe(gdb, program, deadline_s=20, needs=SMALL, only_first=True)
        at = gdb.registers().rip
    assert [finding.rule for finding in result.findings] == [reliable.DIFFERS]
    assert result.reason == "stopped at the first finding"
    assert str(program.location(at)) == reliable.QUIET
    assert guest.breakpoints == set()


def test_guest_that_loses_frames(tmp_path: Path) -> None:
    """Without one trace that agrees the control has nothing to stand on."""
    result = run(tmp_path, SimulatedGuest(short_sighted=True), deadline_s=0.3)
    assert result.reason.startswith("control could not run")


@pytest.mark.parametrize(("least", "enough"), [(1, True), (2, False)])
def test_starts_that_a_workload_never_comes_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: int, enough: bool
) -> None:
    """Once each was waited for often no more are needed; but some always are."""
    monkeypatch.setattr(compare, "LEAST_STARTS", least)
    states = [state for state in STATES if state.rip != at(0x412).rip]
    guest = SimulatedGuest(states=states)
    result = run(tmp_path, guest, deadline_s=20 if enough else 3)
    assert result.counts["inside_replacement"] == 1
    settled = "comes to 1 of 2 starts that patching made, not 2"
    assert any(settled in note for note in result.notes) is enough
    assert result.reason.endswith("" if enough else "inside_replacement 1 of 2")
    assert bool(result.reason) is not enough


def test_too_few_points(tmp_path: Path) -> None:
    """What was not reached before the deadline is said, with both numbers."""
    needs = Needs(points=4, entry_context=999_999, inside_replacement=1)
    result = run(tmp_path, SimulatedGuest(), needs, deadline_s=1)
    assert result.reason.startswith("not enough was sampled before the deadline:")
    assert re.search(r"entry_context \d+ of 999999", result.reason)


def test_a_kernel_with_fewer_patched_starts(tmp_path: Path) -> None:
    """No more is asked for than the kernel has, and a note says so."""
    needs = Needs(points=4, entry_context=0, inside_replacement=9, inside_other_cfa=5)
    result = run(tmp_path, SimulatedGuest(), needs)
    assert result.reason == ""
    assert result.counts["inside_replacement"] == 2
    assert "this kernel has 2 inside_replacement, not 9" in result.notes
    assert "this kernel has 1 inside_other_cfa, not 5" in result.notes


def test_guest_that_ends_midway(tmp_path: Path) -> None:
    """A guest that powers off during the probe leaves counts and a reason."""
    guest = SimulatedGuest()
    guest.script = {"m" + f"{image.ALT:x}": None, "s": None}
    result = run(tmp_path, guest)
    assert result.reason.startswith("the guest ended while it was probed")
    assert result.counts["control_reported"] == 1


def test_tasks_that_sleep_are_asked_about(tmp_path: Path) -> None:
    """At each of the stops; what is wrong with one is a finding, once."""
    result = run(tmp_path, SimulatedGuest())
    assert (result.counts["task_stops"], result.counts["tasks_asked"]) == (4, 4)


def test_tasks_without_a_stack_prove_nothing(tmp_path: Path) -> None:
    """Where no task can be unwound the control has nothing to stand on."""
    guest = SimulatedGuest()
    guest.word(SLEEPER + image.TASK_STACK, 0)
    result = run(tmp_path, guest)
    assert result.reason == "control could not run: no task had a stack to unwind"


def test_a_task_that_is_not_trusted_is_one_finding(tmp_path: Path) -> None:
    """However often it is asked about."""
    (finding,) = run(tmp_path, SimulatedGuest(trusts_none=True)).findings
    assert (finding.rule, finding.occurrences) == (reliable.DIFFERS, 4)


def test_user_page_tables(tmp_path: Path) -> None:
    """Where nothing of the kernel is mapped (PTI) there is no point; others are."""
    result = run(tmp_path, SimulatedGuest(unmapped_at=STATES[5].rip))
    assert result.reason == ""
    assert result.counts["not_mapped"] > 0


def test_one_cause_is_one_finding(tmp_path: Path) -> None:
    """Points that the same entry leads astray are counted, not repeated."""
    guest = SimulatedGuest()
    caller = [offset for offset, _ in image.TABLE].index(0x500)
    guest.load(image.ORC + 4 * len(image.TABLE) + 6 * caller, b"\x20\0")
    result = run(tmp_path, guest, deadline_s=0.5)
    assert result.reason.startswith("control could not run")
    table, unwind = result.findings
    assert (table.rule, table.occurrences) == ("runtime/table-differs", 1)
    assert unwind.cause == "caller, sp+24 call"
    assert unwind.occurrences == result.counts["differ"] > 1


def test_kernel_that_never_comes_up(tmp_path: Path) -> None:
    """A kernel that is still booting at the deadline is told as such."""
    with pytest.raises(InfraError, match=r"did not finish booting within 0\.3 s"):
        run(tmp_path, SimulatedGuest(booted=False), deadline_s=0.3)


def test_a_kernel_that_moved_itself(tmp_path: Path) -> None:
    """KASLR moves text and data, not what is per CPU; all is found where it is now."""
    program, _ = image.image()
    linked = program.slid(-0x600000)
    with connected(tmp_path, SimulatedGuest()) as gdb:
        result = probe(gdb, linked, deadline_s=20, needs=SMALL)
    assert (result.reason, result.findings) == ("", ())
    assert result.counts["agree"] == result.counts["points"] >= 12
    assert result.counts["control_reported"] == 1


def test_other_kernel(tmp_path: Path) -> None:
    """A guest that runs another image is not compared at all."""
    guest = SimulatedGuest()
    guest.load(image.RODATA, b"Linux version 5.0")
    with pytest.raises(InfraError, match="was not seen to run") as caught:
        run(tmp_path, guest, deadline_s=0.3)
    assert "is this the vmlinux" in str(caught.value.hint)


def test_image_without_symbols(tmp_path: Path) -> None:
    """A stripped image is refused before the guest is touched."""
    program, _ = image.image(symbols={"_stext": 0})
    with (
        connected(tmp_path, SimulatedGuest()) as gdb,
        pytest.raises(FormatError, match="_stext"),
    ):
        probe(gdb, program, deadline_s=1)


def test_every_rule_is_documented() -> None:
    """docs/findings.md has a section for each rule of this room, and no other."""
    text = (Path(__file__).parents[3] / "docs" / "findings.md").read_text()
    sections = set(re.findall(r"^## `(runtime/[^`]+)`", text, re.MULTILINE))
    tasks = {reliable.DIFFERS, reliable.UNRELIABLE}
    assert sections == {point.RULE, control.TABLE_RULE, traces.RULE, *tasks}
