"""Point: one stopped state, unwound by the static table and by the guest itself."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from msgspec import Struct

from harness.boot.call import UnwindCall, guest_trace, pt_regs
from harness.boot.gdb import Gdb
from harness.boot.kernel_text import KernelText
from harness.boot.registers import Registers
from harness.boot.stack_info import TASK, CpuStacks, GuestStacks
from harness.boot.unwind import Ended, Trace, unwind
from harness.elf.orc import OrcType, describe
from harness.elf.program import Program
from harness.finding import Finding, Location

RULE = "runtime/unwind-differs"
WINDOW_BYTES = 1880  # of stack, read at once: one packet; few traces need more
EVIDENCE_FRAMES = 18
_NAME_COLUMNS = 34


class Guest(Struct, frozen=True):
    """A stopped guest and all that stays the same about it during a probe."""

    gdb: Gdb
    program: Program
    text: KernelText
    cpu: CpuStacks
    call: UnwindCall


class Point(Struct, frozen=True):
    """Where the guest stopped, and how the two unwinders see it.

    Attributes:
        registers: of the stopped vCPU.
        host: the unwind by the static table.
        guest: what the guest's own unwinder stored.
    """

    registers: Registers
    host: Trace
    guest: tuple[int, ...]

    @property
    def comparable(self) -> bool:
        """The host knows all the text that is on this stack."""
        return self.host.ended is not Ended.MODULE

    @property
    def agrees(self) -> bool:
        """Both see the same frames (as far as the host can see)."""
        if self.comparable:
            return self.host.ips == self.guest
        return self.host.ips == self.guest[: len(self.host.ips)]

    @property
    def first_difference(self) -> int:
        """The number of the first frame that is not the same."""
        pairs = itertools.zip_longest(self.host.ips, self.guest)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), len(self.guest))


def check_point(guest: Guest, registers: Registers) -> Point:
    """Unwind the stopped guest twice; it is left as it was.

    Raises:
        InfraError: memory that must be mapped is not, or the call did not return.
    """
    regs = pt_regs(registers)
    sp = registers.rsp
    stacks, window = guest.cpu.current(guest.gdb.read_many, sp, WINDOW_BYTES)
    memory = StackMemory(guest.gdb, stacks, [(sp, window)])
    host = unwind(regs, guest.text, stacks, memory.read_word)
    return Point(registers, host, guest_trace(guest.gdb, guest.call, registers, regs))


def in_entry_context(guest: Guest, point: Point) -> bool:
    """Tell whether this is entry code, or runs because of an interrupt.

    That is: registers rather than a return address lie where the table points, or
    the unwind went through another stack than the task's, or through the registers
    of interrupted kernel code.
    """
    index = guest.text.find(point.registers.rip)
    at_entry = index is not None and guest.text.entry(index).type != OrcType.CALL
    elsewhere = any(kind != TASK for kind in point.host.stacks)
    return at_entry or elsewhere or point.host.kernel_regs


def finding(guest: Guest, point: Point) -> Finding:
    """Return the difference at ``point`` as a finding.

    It is placed where the last frame that both see was looked up: that entry is the
    one that leads them apart.
    """
    program, frames = guest.program, point.host.frames
    number = point.first_difference
    last = frames[min(max(number - 1, 0), len(frames) - 1)]
    place = last.ip if last.looked_up is None else last.looked_up
    index = guest.text.find(place)
    declared = "no entry" if index is None else describe(guest.text.state[index])
    told = name_of(program, point.guest, number)
    expected = name_of(program, point.host.ips, number)
    location = program.location(place)
    return Finding(
        rule=RULE,
        location=location,
        message=f"the kernel unwinds to {told}, the table to {expected}",
        declared=declared,
        actual=f"guest: {told}",
        cause=f"{location.symbol}, {declared}",
        window=evidence(guest, point),
    )


def evidence(guest: Guest, point: Point) -> tuple[str, ...]:
    """Return the state and both frame lists side by side, at most 25 lines."""
    registers, program = point.registers, guest.program
    lines = [
        f"stopped at {program.location(registers.rip)}"[:100],
        f"table's unwind ended: {point.host.ended}",
        f"rip {registers.rip:016x} rsp {registers.rsp:016x} rbp {registers.rbp:016x}",
        f"r10 {registers.r10:016x} r13 {registers.r13:016x} gs {registers.gs_base:016x}",
    ]
    first = point.first_difference
    return (*lines, *frame_lines(program, guest.text, point.host, point.guest, first))


def frame_lines(
    program: Program,
    text: KernelText,
    host: Trace,
    guest: tuple[int, ...],
    difference: int,
) -> Iterator[str]:
    """Yield both frame lists around their first ``difference``, side by side."""
    yield f"   # {'guest':{_NAME_COLUMNS}} {'table':{_NAME_COLUMNS}} entry used"
    total = max(len(host.frames), len(guest))
    first = max(0, min(difference - 8, total - EVIDENCE_FRAMES))
    for number in range(first, min(total, first + EVIDENCE_FRAMES)):
        arrow = ">" if number == difference else " "
        guests = name_of(program, guest, number)
        hosts = name_of(program, host.ips, number)
        yield (
            f"{arrow}{number:>3} {guests:{_NAME_COLUMNS}} {hosts:{_NAME_COLUMNS}} "
            f"{_entry(text, host, number)}"
        )[:100].rstrip()


class StackMemory(Struct):
    """Reads guest memory in windows; good for one stop only."""

    gdb: Gdb
    stacks: GuestStacks
    windows: list[tuple[int, bytes]]

    def read_word(self, address: int) -> int:
        """Return the word at ``address``, which is on one of the stacks."""
        for begin, data in self.windows:
            if begin <= address and address + 8 <= begin + len(data):
                at = address - begin
                return int.from_bytes(data[at : at + 8], "little")
        info = self.stacks.find(address)
        size = 8 if info is None else min(info.end - address, WINDOW_BYTES)
        self.windows.append((address, self.gdb.read(address, size)))
        return int.from_bytes(self.windows[-1][1][:8], "little")


def _entry(text: KernelText, trace: Trace, number: int) -> str:
    if number >= len(trace.frames):
        return ""
    index = trace.frames[number].index
    return "" if index is None else describe(text.state[index])


def name_of(program: Program, ips: tuple[int, ...], number: int) -> str:
    """Return what frame ``number`` is called."""
    if number >= len(ips):
        return "nothing"
    where: Location = program.location(ips[number])
    name = str(where) if where.symbol else f"{ips[number]:#x}"
    if len(name) <= _NAME_COLUMNS:
        return name
    return f"{name[: _NAME_COLUMNS - 10]}..{name[-8:]}"
