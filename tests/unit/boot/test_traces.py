"""Call traces against the table and the code of a crafted image."""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt
import pytest
from msgspec.structs import replace

from harness.boot.backtrace import Backtrace, Entry, parse_stack
from harness.boot.callers import Leads, find_callers
from harness.boot.kernel_text import kernel_text
from harness.boot.traces import Judge, check_trace, check_traces, find_entry, spoil
from harness.elf.orc import OrcEntry
from harness.errors import FormatError
from tests.builders import image
from tests.builders.elfwriter import ALLOC, ET_EXEC, EXEC, UND, ElfWriter, regs

GOOD = """\
[<0>] leaf+0x16/0x100
[<0>] caller+0x8/0x100
[<0>] ret_from_fork_asm+0x5/0x100
"""
TEXT = image.TEXT


def judge(table: list[tuple[int, OrcEntry]] = image.TABLE) -> Judge:
    """Return the image, ready to judge; ``leaf`` has a call at +0x3 as well."""
    program, orc = image.image(table=table)
    return Judge(program, kernel_text(program, orc), find_callers(program))


def u64(*values: int) -> npt.NDArray[np.uint64]:
    """Return a column of addresses."""
    return np.array(values, np.uint64)


def fault(trace: Backtrace, table: list[tuple[int, OrcEntry]] = image.TABLE) -> str:
    """Return what is wrong with ``trace``."""
    found = check_trace(trace, judge(table))
    return found.message if found else ""


def proc(*lines: str) -> Backtrace:
    """Return a /proc trace of these entries."""
    text = "".join(f"[<0>] {line}/0x100\n" for line in lines)
    return parse_stack(text, "stack/1")


CALLED = "caller+0x8"
ROOT = "ret_from_fork_asm+0x5"


def test_callers_of_the_image() -> None:
    """A call is found by where it returns; its target leads to itself."""
    callers = find_callers(image.image()[0])
    assert callers.targets(TEXT + 0x508) == (TEXT + 0x400,)
    assert callers.targets(TEXT + 0x507) == ()
    assert 0 in callers.targets(TEXT + image.SITE + 6)  # call *pointer
    assert callers.function(TEXT + 0x50F) == TEXT + 0x500
    assert callers.leads(TEXT + 0x400, TEXT + 0x400) is Leads.THERE
    assert callers.leads(TEXT + 0x400, TEXT + 0x500) is Leads.ELSEWHERE
    assert callers.leads(0, TEXT + 0x500) is Leads.ANYWHERE


def test_tail_jumps_lead_on() -> None:
    """A function that jumps away can be found running another; see ``tail``."""
    callers = find_callers(image.image()[0])
    assert callers.leads(TEXT + 0x800, TEXT + 0x400) is Leads.THERE
    assert callers.leads(TEXT + 0x900, TEXT + 0x400) is Leads.ANYWHERE


def test_retpoline_site_may_call_indirectly() -> None:
    """A call of a thunk is patched in place: it can return inside its five bytes."""
    callers = replace(find_callers(image.image()[0]), retpolines=u64(TEXT + 0x420))
    assert callers.targets(TEXT + 0x422) == (0,)
    assert callers.targets(TEXT + 0x425) == (0,)
    assert callers.targets(TEXT + 0x420) == callers.targets(TEXT + 0x426) == ()


def test_a_call_through_pv_ops_may_be_made_direct() -> None:
    """Up to 6.7 by a table of its own: it is a byte shorter, and goes anywhere."""
    writer = ElfWriter(ET_EXEC)
    code = bytes.fromhex("89f7" + "ff1500000000" + "c3")
    writer.section(".text", code, flags=ALLOC | EXEC, address=TEXT)
    row = struct.pack("<QBB6x", TEXT + 2, 1, 6)
    writer.section(".parainstructions", row, address=TEXT + 0x1000)
    callers = find_callers(writer.program("vmlinux"))
    assert callers.targets(TEXT + 7) == callers.targets(TEXT + 8) == (0,)
    assert callers.targets(TEXT + 6) == ()


def test_trampoline_leads_anywhere() -> None:
    """A static call's trampoline is retargeted at run time."""
    callers = find_callers(image.image()[0])
    retargeted = replace(callers, trampolines=(TEXT + 0x400, TEXT + 0x410))
    assert retargeted.leads(TEXT + 0x400, TEXT + 0x500) is Leads.ANYWHERE


def test_good_trace() -> None:
    """A trace that the table and the code explain has no fault."""
    assert fault(proc("leaf+0x16", CALLED, ROOT)) == ""


def test_no_call_before_a_return_address() -> None:
    """An entry that no call returns to is wrong."""
    assert fault(proc("leaf+0x16", "caller+0x9", ROOT)) == "no call returns there"


def test_call_that_leads_elsewhere() -> None:
    """A missing frame shows where a direct call does not fit."""
    message = "its call does not lead to the function above it"
    assert fault(proc("leaf+0x16", ROOT)) == message


def test_trace_that_stops_early() -> None:
    """A called frame cannot be the last one, unless the trace was cut."""
    short = proc("leaf+0x16", CALLED)
    assert fault(short).startswith("the trace stops early")
    cut = Backtrace("stack/1", short.entries, cut=True)
    assert fault(cut) == ""


def test_trace_beyond_the_end() -> None:
    """Nothing comes after the end of the stack."""
    assert fault(proc("leaf+0x16", CALLED, ROOT, CALLED)) == (
        "the stack had ended above it"
    )


def test_undefined_state() -> None:
    """The unwinder cannot have passed where the table has no state."""
    table = [(0x500, UND) if at == 0x500 else (at, entry) for at, entry in image.TABLE]
    assert fault(proc("leaf+0x16", CALLED, ROOT), table) == (
        "the table has no state for it"
    )


def test_user_mode_needs_registers() -> None:
    """User registers behind a frame that was called are a contradiction."""
    entries = proc("leaf+0x16", CALLED).entries
    trace = Backtrace("tasks", entries, user=True)
    assert fault(trace).startswith("user mode follows")
    table = [(0x500, regs()) if at == 0x500 else (at, e) for at, e in image.TABLE]
    assert fault(trace, table) == ""


def test_interrupted_code_was_not_called() -> None:
    """Behind registers comes any place, looked up exactly."""
    table = [(at, regs()) if at == 0x400 else (at, e) for at, e in image.TABLE]
    table = [row for row in table if row[0] not in (0x411, 0x412)]
    entries = (Entry("leaf", 0x16, 0x100), Entry("caller", 0x2, 0x100))
    trace = Backtrace("stack/1", (*entries, *proc(ROOT).entries))
    assert fault(trace, table) == ""
    assert fault(trace) == "no call returns there"


def test_registers_where_the_table_has_none() -> None:
    """An interrupted ip cannot follow a frame that was called."""
    entries = proc("leaf+0x16").entries
    shown = Entry("caller", 0x2, 0x100, interrupted=True)
    assert fault(Backtrace("log", (*entries, shown))) == (
        "registers, where the table has none"
    )


def test_task_that_never_ran() -> None:
    """A new task starts at ret_from_fork_asm itself."""
    assert fault(proc("ret_from_fork_asm+0x0")) == ""


def test_frames_in_modules_are_counted_not_judged() -> None:
    """A module's table is elsewhere: the chain starts anew behind it."""
    entries = (Entry("crc7_be", 1, 2, "crc7"), *proc(CALLED, ROOT).entries)
    ours = judge()
    assert check_trace(Backtrace("stack/1", entries), ours) is None
    assert ours.counts["entries_in_modules"] == 1
    assert ours.counts["entries"] == 2


def test_unknown_symbol() -> None:
    """A name that the image has not is a fault, without an address."""
    assert fault(proc("nobody+0x1")) == "the image has no such symbol"


def test_namesakes_are_told_apart_by_size() -> None:
    """Of symbols of one name the size chooses; if none fits all are tried."""
    program, _ = image.image()
    assert find_entry(Entry("leaf", 2, 0x100), program) == [TEXT + 0x402]
    assert find_entry(Entry("leaf", 2, 0x77), program) == [TEXT + 0x402]


def test_which_namesake_it_was_is_told_by_its_caller() -> None:
    """Static functions of several objects may have one name, and one size."""
    program, orc = image.image(more={"leaf": 0x300})  # nobody calls this one
    namesakes = Judge(program, kernel_text(program, orc), find_callers(program))
    _, *above = proc("leaf+0x16", CALLED, ROOT).entries
    leaf = Entry("leaf", 2, 0x77, interrupted=True)
    assert find_entry(leaf, program) == [TEXT + 0x302, TEXT + 0x402]

    assert check_trace(Backtrace("console", (leaf, *above)), namesakes) is None
    lost = check_trace(Backtrace("console", (leaf, *above[1:])), namesakes)
    assert lost is not None
    assert lost.message == "its call does not lead to the function above it"


def test_every_way_to_spoil_a_trace_is_seen() -> None:
    """The control's faults are: an early stop, a shifted entry, a lost frame."""
    ours = judge()
    trace = proc("leaf+0x16", CALLED, ROOT)
    spoilt = dict(spoil(trace, ours))
    assert len(spoilt) == 3
    assert all(check_trace(each, ours) for each in spoilt.values())


def test_what_was_interrupted_is_not_spoilt() -> None:
    """Behind registers another place would be as right: two ways are left."""
    table = [(at, regs()) if at == 0x400 else (at, e) for at, e in image.TABLE]
    ours = judge([row for row in table if row[0] not in (0x411, 0x412)])
    trace = proc("leaf+0x16", CALLED, ROOT)
    assert check_trace(trace, ours) is None
    spoilt = dict(spoil(trace, ours))
    assert [each.entries[1] for each in spoilt.values()] == [trace.entries[1]] * 2
    assert all(check_trace(each, ours) for each in spoilt.values())


def test_what_is_behind_a_module_is_not_spoilt() -> None:
    """Whom the module calls, and who calls it, is not known here."""
    ours = judge()
    entries = (Entry("crc7_be", 1, 2, "crc7"), *proc("leaf+0x16", CALLED, ROOT).entries)
    trace = Backtrace("stack/1", entries)
    assert check_trace(trace, ours) is None
    spoilt = dict(spoil(trace, ours))
    assert f"a trace without {entries[2]}" in spoilt
    assert all(check_trace(each, ours) for each in spoilt.values())


def test_a_place_beside_which_another_is_as_right_is_not_spoilt() -> None:
    """A retpoline's site may return behind each of two, or three, of its bytes."""
    ours = judge()
    several = replace(ours.callers, retpolines=u64(TEXT + 0x506))
    ours = replace(ours, callers=several)
    trace = proc("leaf+0x16", CALLED, ROOT)
    assert check_trace(trace, ours) is None
    spoilt = dict(spoil(trace, ours))
    assert all(check_trace(each, ours) for each in spoilt.values())


def test_whole_check() -> None:
    """Both sources, the counts and the control come together."""
    program, _ = image.image()
    console = "Call Trace:\n <TASK>\n leaf+0x16/0x100\n </TASK>\n"
    result = check_traces({"stack/1": GOOD, "log": console}, program)
    assert result.reason == ""
    assert result.counts["proc_traces"] == result.counts["console_traces"] == 1
    assert result.counts["controls"] == result.counts["controls_reported"] == 3
    (finding,) = result.findings
    assert finding.rule == "runtime/trace-wrong"
    assert str(finding.location) == "leaf+0x15"
    assert finding.declared == "sp+8 call"
    assert finding.window == ("log:", ">  0 leaf+0x16")


def test_nothing_to_check_is_no_verdict() -> None:
    """Without traces of both kinds the result says why."""
    program, _ = image.image()
    assert check_traces({}, program).reason == "there was no proc trace to check"
    only = check_traces({"stack/1": GOOD}, program)
    assert only.reason == "there was no console trace to check"


def test_image_without_a_table() -> None:
    """A kernel with another unwinder cannot be checked."""
    writer = ElfWriter(ET_EXEC)
    writer.section(".text", image.code(), flags=ALLOC | EXEC, address=TEXT)
    with pytest.raises(FormatError, match="carries no ORC table"):
        check_traces({"stack/1": GOOD}, writer.program("vmlinux"))
