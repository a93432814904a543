"""The host's unwinder, rule by rule, on crafted tables and stacks."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from harness.boot.kernel_text import KernelText, kernel_text
from harness.boot.stack_info import GuestStacks
from harness.boot.unwind import PT_REGS, Ended, StackInfo, Trace, unwind
from harness.elf.orc import OrcEntry, OrcReg, OrcType, pack
from harness.errors import FormatError
from tests.builders.image import image

TASK = StackInfo(1, 0x10000, 0x14000, "task")
IRQ = StackInfo(2, 0x20000, 0x24000, "irq")
TEXT = (0x1000, 0x2000)
MODULES = (0x8000, 0x9000)
KERNEL_CS, USER_CS = 0x10, 0x33


def entry(
    sp: OrcReg,
    offset: int,
    kind: OrcType = OrcType.CALL,
    bp: tuple[OrcReg, int] = (OrcReg.UNDEFINED, 0),
    signal: bool = False,
) -> OrcEntry:
    """Return an entry, its CFA at ``sp`` + ``offset``."""
    return OrcEntry(offset, bp[1], sp, bp[0], kind, signal)


LEAF = entry(OrcReg.SP, 8)
END = entry(OrcReg.UNDEFINED, 0, OrcType.END_OF_STACK)
UNDEFINED = entry(OrcReg.UNDEFINED, 0, OrcType.UNDEFINED)
REGS = entry(OrcReg.SP, 0, OrcType.REGS, signal=True)
PARTIAL = entry(OrcReg.SP, 0, OrcType.REGS_PARTIAL, signal=True)


def regs(**named: int) -> dict[str, int]:
    """Return kernel-mode registers, zero where not named."""
    return dict.fromkeys(PT_REGS, 0) | {"cs": KERNEL_CS} | named


def stored(address: int, registers: Mapping[str, int]) -> dict[int, int]:
    """Return the words that these registers are in memory at ``address``."""
    return {address + PT_REGS[name]: value for name, value in registers.items()}


def run(
    start: Mapping[str, int],
    table: Mapping[int, OrcEntry],
    memory: Mapping[int, int],
    limit: int = 64,
) -> Trace:
    """Unwind ``start`` by ``table``; reading any other word is an error."""
    text = KernelText(
        (TEXT,), MODULES, sorted(table), [pack(table[ip]) for ip in sorted(table)]
    )
    return unwind(start, text, GuestStacks((TASK, IRQ)), memory.__getitem__, limit)


def check(
    trace: Trace, ips: list[int], ended: Ended, stacks: tuple[int, ...] = (1,)
) -> None:
    """Compare a trace with what is expected."""
    assert ([*map(hex, trace.ips)], trace.ended) == ([*map(hex, ips)], ended)
    assert trace.stacks == stacks


def test_call_frames_are_looked_up_one_byte_before() -> None:
    """A return address is looked up as the call before it; the first ip exactly."""
    table = {0x1000: LEAF, 0x1100: entry(OrcReg.SP, 24), 0x1180: UNDEFINED, 0x1200: END}
    memory = {0x10100: 0x1180, 0x10108 + 16: 0x1234}
    trace = run(regs(ip=0x1000, sp=0x10100), table, memory)
    check(trace, [0x1000, 0x1180, 0x1234], Ended.END_OF_STACK)
    assert [frame.looked_up for frame in trace.frames] == [0x1000, 0x117F, 0x1233]
    assert [frame.cfa for frame in trace.frames] == [0x10108, 0x10120, None]


def test_first_entry_serves_what_lies_before_it() -> None:
    """__orc_find() gives its first entry for addresses before the table."""
    trace = run(regs(ip=0x1000, sp=0x10100), {0x1800: LEAF, 0x1900: END}, {0x10100: 0})
    check(trace, [0x1000], Ended.NOT_TEXT)


def test_undefined_is_an_error_and_end_is_not() -> None:
    """Both end the trace; they are told apart."""
    start = regs(ip=0x1000, sp=0x10100)
    check(run(start, {0x1000: UNDEFINED}, {}), [0x1000], Ended.UNDEFINED)
    check(run(start, {0x1000: END}, {}), [0x1000], Ended.END_OF_STACK)


def test_saved_bp_is_found_below_the_cfa() -> None:
    """PREV_SP reads at CFA + offset, and a BP-based caller then uses that value."""
    table = {
        0x1000: entry(OrcReg.SP, 24, bp=(OrcReg.PREV_SP, -16)),
        0x1100: entry(OrcReg.BP, 16),
        0x1200: END,
    }
    memory = {0x10110: 0x1110, 0x10108: 0x10200, 0x10208: 0x1210}
    trace = run(regs(ip=0x1000, sp=0x10100, bp=0xDEAD), table, memory)
    check(trace, [0x1000, 0x1110, 0x1210], Ended.END_OF_STACK)


def test_saved_bp_based_on_bp() -> None:
    """BP reads at the old BP + offset."""
    table = {
        0x1000: entry(OrcReg.SP, 8, bp=(OrcReg.BP, -8)),
        0x1100: entry(OrcReg.BP, 16),
        0x1200: END,
    }
    memory = {0x10100: 0x1110, 0x101F8: 0x10300, 0x10308: 0x1210}
    trace = run(regs(ip=0x1000, sp=0x10100, bp=0x10200), table, memory)
    check(trace, [0x1000, 0x1110, 0x1210], Ended.END_OF_STACK)


def test_bp_is_kept_where_the_table_says_nothing() -> None:
    """Without a saved BP a call frame keeps it, as no registers are at hand."""
    table = {0x1000: LEAF, 0x1100: LEAF, 0x1200: entry(OrcReg.BP, 16), 0x1300: END}
    memory = {0x10100: 0x1110, 0x10108: 0x1210, 0x10308: 0x1310}
    trace = run(regs(ip=0x1000, sp=0x10100, bp=0x10300), table, memory)
    check(trace, [0x1000, 0x1110, 0x1210, 0x1310], Ended.END_OF_STACK)


def test_regs_frame_restores_everything() -> None:
    """REGS reads ip, sp and bp from pt_regs at the CFA; the ip is looked up exactly."""
    table = {0x1000: REGS, 0x1100: entry(OrcReg.BP, 16), 0x1200: END}
    inner = regs(ip=0x1100, sp=0x10400, bp=0x10500)
    memory = stored(0x10100, inner) | {0x10508: 0x1210}
    trace = run(regs(ip=0x1000, sp=0x10100), table, memory)
    check(trace, [0x1000, 0x1100, 0x1210], Ended.END_OF_STACK)
    assert trace.frames[1].looked_up == 0x1100
    assert trace.kernel_regs


def test_signal_comes_from_the_entry() -> None:
    """Without its signal bit a REGS entry's ip counts as a return address (#BP)."""
    quiet = entry(OrcReg.SP, 0, OrcType.REGS)
    memory = stored(0x10100, regs(ip=0x1100, sp=0x10400))
    trace = run(regs(ip=0x1000, sp=0x10100), {0x1000: quiet, 0x1080: END}, memory)
    assert trace.frames[1].looked_up == 0x10FF


def test_user_registers_end_the_trace() -> None:
    """User-mode registers are the end that a syscall's trace should have."""
    memory = stored(0x10100, regs(ip=0x401000, sp=0x7FF000, cs=USER_CS))
    trace = run(regs(ip=0x1000, sp=0x10100), {0x1000: REGS}, memory)
    check(trace, [0x1000], Ended.USER)
    assert not trace.kernel_regs


def test_partial_regs_lie_0x80_below() -> None:
    """REGS_PARTIAL: only the iret frame is there, ip at the CFA, sp 0x18 above."""
    table = {0x1000: PARTIAL, 0x1100: END}
    inner = {0x10100: 0x1100, 0x10108: KERNEL_CS, 0x10118: 0x10400}
    trace = run(regs(ip=0x1000, sp=0x10100), table, inner)
    check(trace, [0x1000, 0x1100], Ended.END_OF_STACK)


def test_partial_regs_use_those_before_them() -> None:
    """A register that an iret frame lacks comes from the full frame before it."""
    table = {0x1000: PARTIAL, 0x1100: entry(OrcReg.R10, 8), 0x1200: END}
    memory = {0x10100: 0x1100, 0x10108: KERNEL_CS, 0x10118: 0x10200, 0x102F8: 0x1210}
    trace = run(regs(ip=0x1000, sp=0x10100, r10=0x10300), table, memory)
    check(trace, [0x1000, 0x1100, 0x1210], Ended.END_OF_STACK)


@pytest.mark.parametrize(
    ("base", "name"),
    [
        (OrcReg.R10, "r10"),
        (OrcReg.R13, "r13"),
        (OrcReg.DI, "di"),
        (OrcReg.DX, "dx"),
        (OrcReg.AX, "ax"),
    ],
)
def test_other_base_registers_ignore_the_offset(base: OrcReg, name: str) -> None:
    """R10, R13, DI, DX and AX give the CFA itself, whatever the offset says."""
    start = regs(ip=0x1000, sp=0x10100) | {name: 0x10300}
    table = {0x1000: entry(base, 40), 0x1200: END}
    check(run(start, table, {0x102F8: 0x1210}), [0x1000, 0x1210], Ended.END_OF_STACK)


def test_base_register_after_a_call_is_lost() -> None:
    """A caller's R10 is nowhere: the unwind fails there."""
    table = {0x1000: LEAF, 0x1100: entry(OrcReg.R10, 0)}
    trace = run(regs(ip=0x1000, sp=0x10100, r10=0x10300), table, {0x10100: 0x1110})
    check(trace, [0x1000, 0x1110], Ended.NO_REGISTER)


def test_sp_indirect_adds_the_offset_to_what_it_read() -> None:
    """SP_INDIRECT: CFA = *(sp) + offset; so the irq stack is left."""
    table = {0x1000: entry(OrcReg.SP_INDIRECT, 8), 0x1200: END}
    memory = {0x20100: 0x10300, 0x10300: 0x1210}
    trace = run(regs(ip=0x1000, sp=0x20100), table, memory)
    check(trace, [0x1000, 0x1210], Ended.END_OF_STACK, stacks=(2, 1))


def test_bp_indirect_reads_the_cfa_itself() -> None:
    """BP_INDIRECT: CFA = *(bp + offset)."""
    table = {0x1000: entry(OrcReg.BP_INDIRECT, -8), 0x1200: END}
    memory = {0x101F8: 0x10300, 0x102F8: 0x1210}
    trace = run(regs(ip=0x1000, sp=0x10100, bp=0x10200), table, memory)
    check(trace, [0x1000, 0x1210], Ended.END_OF_STACK)


def test_unknown_stack_ends_at_once() -> None:
    """A stack that get_stack_info() does not know gives a trace of one entry."""
    check(run(regs(ip=0x1000, sp=0x90000), {0x1000: LEAF}, {}), [0x1000],
          Ended.NO_STACK, stacks=())  # fmt: skip


def test_guard_page_below_a_stack() -> None:
    """From an overflowed stack the page above is tried."""
    table = {0x1000: entry(OrcReg.BP, 16), 0x1200: END}
    trace = run(regs(ip=0x1000, sp=0xFFF8, bp=0x10100), table, {0x10108: 0x1210})
    check(trace, [0x1000, 0x1210], Ended.END_OF_STACK)


def test_stack_is_not_visited_twice() -> None:
    """Going back to a stack that was left is refused."""
    switch = entry(OrcReg.SP_INDIRECT, 8)
    table = {0x1000: switch, 0x1100: switch, 0x1200: END}
    memory = {0x20100: 0x10300, 0x10300: 0x1110, 0x10308: 0x20200}
    trace = run(regs(ip=0x1000, sp=0x20100), table, memory)
    check(trace, [0x1000, 0x1110], Ended.NO_STACK, stacks=(2, 1))


def test_frame_that_reaches_over_the_end_of_its_stack() -> None:
    """pt_regs must lie on the stack whole."""
    trace = run(regs(ip=0x1000, sp=TASK.end - 0x20), {0x1000: REGS}, {})
    check(trace, [0x1000], Ended.NO_STACK)


def test_wrong_direction() -> None:
    """On one stack the stack pointer must go up, or the unwind could loop."""
    table = {0x1000: entry(OrcReg.BP, 16), 0x1100: END}
    trace = run(regs(ip=0x1000, sp=0x10200, bp=0x10100), table, {0x10108: 0x1110})
    check(trace, [0x1000], Ended.WRONG_DIRECTION)


def test_equal_stack_pointer_is_the_wrong_direction() -> None:
    """Standing still is refused as well."""
    table = {0x1000: entry(OrcReg.SP, 0), 0x1100: END}
    trace = run(regs(ip=0x1000, sp=0x10200), table, {0x101F8: 0x1110})
    check(trace, [0x1000], Ended.WRONG_DIRECTION)


def test_return_address_outside_the_text() -> None:
    """A trace ends before what is no kernel text."""
    trace = run(regs(ip=0x1000, sp=0x10100), {0x1000: LEAF}, {0x10100: 0xDEAD})
    check(trace, [0x1000], Ended.NOT_TEXT)


def test_module_text_is_not_ours() -> None:
    """The host has no table for a module: it says so instead of guessing."""
    start = regs(ip=0x1000, sp=0x10100)
    check(run(start, {0x1000: LEAF}, {0x10100: 0x8010}), [0x1000], Ended.MODULE)
    start = regs(ip=0x8010, sp=0x10100)
    check(run(start, {0x1000: LEAF}, {}), [0x8010], Ended.MODULE)


def test_null_function_pointer() -> None:
    """At ip 0 the return address is on top of the stack."""
    trace = run(regs(ip=0, sp=0x10100), {0x1000: END}, {0x10100: 0x1010})
    check(trace, [0, 0x1010], Ended.END_OF_STACK)


def test_generated_code_is_guessed_by_frame_pointer() -> None:
    """Text without any table is taken to have a frame pointer."""
    memory = {0x10208: 0x1010, 0x10200: 0x10300}
    trace = run(regs(ip=0x5000, sp=0x10100, bp=0x10200), {0x1000: END}, memory)
    check(trace, [0x5000, 0x1010], Ended.END_OF_STACK)


@pytest.mark.parametrize(
    "illegal",
    [
        OrcEntry(8, 0, 15, 0, OrcType.CALL, False),
        OrcEntry(8, 0, OrcReg.PREV_SP, 0, OrcType.CALL, False),
        OrcEntry(8, 0, OrcReg.SP, 0, 7, False),
        OrcEntry(8, 0, OrcReg.SP, OrcReg.DX, OrcType.CALL, False),
    ],
)
def test_illegal_codes_end_the_trace(illegal: OrcEntry) -> None:
    """What no kernel writes ends the trace, as in the kernel."""
    trace = run(regs(ip=0x1000, sp=0x10100), {0x1000: illegal}, {0x10100: 0x1010})
    check(trace, [0x1000], Ended.ILLEGAL)


def test_trace_is_full() -> None:
    """No more frames than the guest can store."""
    memory = {0x10100 + 8 * i: 0x1010 for i in range(9)}
    trace = run(regs(ip=0x1000, sp=0x10100), {0x1000: LEAF}, memory, limit=4)
    check(trace, [0x1000, 0x1010, 0x1010, 0x1010], Ended.FULL)


def test_text_without_its_symbols() -> None:
    """A stripped image is refused with the remedy."""
    program, table = image(symbols={"_stext": 0})
    with pytest.raises(FormatError, match="no _stext and _etext"):
        kernel_text(program, table)


def test_text_of_an_image() -> None:
    """The bounds come from symbols; modules lie behind the image."""
    program, table = image()
    text = kernel_text(program, table)
    begin, end = text.ranges[0]
    assert text.holds(begin)
    assert not text.holds(end)
    assert text.in_module(0xFFFFFFFFC0000000)
    assert not text.in_module(end)
    assert text.find(begin) == 0
