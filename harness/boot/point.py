"""Point: one stopped state, unwound by the static table and by the guest itself."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from harness.boot.call import Errands, UnwindCall, packed, pt_regs
from harness.boot.driver import RECORD
from harness.boot.gdb import Gdb
from harness.boot.kernel_text import KernelText
from harness.boot.registers import Registers
from harness.boot.stack_info import TASK, CpuStacks, GuestStacks
from harness.boot.unwind import PT_REGS_SIZE, TRACE_LIMIT, Ended, Trace, unwind
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


class Sight(Struct, frozen=True):
    """A stopped state, unwound by the static table; the guest is asked later.

    Attributes:
        words: all of the guest's memory that the unwind depends on.
        task: the task that ran.
        switching: its stack pointer is on a stack that the kernel does not know yet.
    """

    registers: Registers
    host: Trace
    words: dict[int, int]
    task: int
    switching: bool


def look(guest: Guest, registers: Registers) -> Sight:
    """Unwind the stopped guest by the static table.

    Raises:
        UnmappedMemory: memory that this takes is not mapped now.
    """
    sp = registers.rsp
    stacks, window = guest.cpu.current(guest.gdb.read_many, sp, WINDOW_BYTES)
    memory = StackMemory(guest.gdb, [(sp, window)], stacks)
    host = unwind(pt_regs(registers), guest.text, stacks, memory.read_word)
    task = guest.cpu.last.task
    return Sight(registers, host, memory.words, task, stacks.find(sp) is None)


def ask(guest: Guest, sights: Sequence[Sight], registers: Registers) -> list[Point]:
    """Make the guest unwind itself from each of ``sights``; it is left as it was.

    Since the first of them it has only been stepped, on one and the same CPU and task,
    to where it has ``registers``. For each, the memory that its unwind depends on is
    made what it was then: whatever else the guest's unwind depends on differs from it
    already, and so is seen.

    Raises:
        InfraError: the calls did not return.
    """
    last = sights[-1].registers
    with _back_at(guest.gdb, last, registers):
        now = _now(guest.gdb, sights) if registers is not sights[0].registers else {}
        points: list[Point] = []
        while len(points) < len(sights):
            points += _asked(guest, sights[len(points) :], last, now)
        return points


def check_point(guest: Guest, registers: Registers) -> Point:
    """Unwind the stopped guest twice; it is left as it was.

    Raises:
        InfraError: memory that must be mapped is not, or the call did not return.
    """
    (point,) = ask(guest, [look(guest, registers)], registers)
    return point


@contextlib.contextmanager
def _back_at(gdb: Gdb, earlier: Registers, registers: Registers) -> Iterator[None]:
    # It may have come to where nothing of the kernel can be called, to user space or
    # into the hypervisor.
    if earlier is registers:
        yield
        return
    same = earlier.cr3 == registers.cr3
    gdb.write_registers(earlier.pack_without_control() if same else earlier)
    yield
    gdb.write_registers(registers.pack_without_control() if same else registers)


def _now(gdb: Gdb, sights: Sequence[Sight]) -> dict[int, int]:
    """Return what the words of all ``sights`` are now."""
    addresses = sorted(set().union(*(sight.words for sight in sights)))
    windows: list[list[int]] = []
    for address in addresses:
        if windows and address + 8 - windows[-1][0] <= WINDOW_BYTES:
            windows[-1][1] = address + 8 - windows[-1][0]
        else:
            windows.append([address, 8])
    found = gdb.read_many([(begin, size) for begin, size in windows])
    memory = StackMemory(
        gdb, [(begin, data) for (begin, _), data in zip(windows, found, strict=True)]
    )
    return {address: memory.read_word(address) for address in addresses}


def _asked(
    guest: Guest,
    sights: Sequence[Sight],
    registers: Registers,
    now: dict[int, int],
    *,
    whole: bool = False,
) -> list[Point]:
    """Ask about the first of ``sights``: as many as there is room for.

    Of a trace that differs one frame more than the host's is enough to know it; of
    ``whole`` ones all is stored.
    """
    errands = Errands(guest.call)
    memory = dict(now)
    asked: list[tuple[int, int, int]] = []
    for sight in sights:
        limit = TRACE_LIMIT if whole else min(len(sight.host.ips) + 1, TRACE_LIMIT)
        pokes = _differing(memory, sight.words)
        undo = len(_differing(memory | pokes, now))
        needed = PT_REGS_SIZE + 8 * limit + RECORD.size * (len(pokes) + 1 + undo)
        if errands.size + needed > guest.call.room:
            if asked:
                break
            if pokes:
                return _asked_by_hand(guest, sight, registers, now, pokes)
        memory |= pokes
        for address, word in pokes.items():
            errands.poke(address, word)
        regs = errands.place(packed(pt_regs(sight.registers)))
        store = errands.place(bytes(8 * limit))
        number = errands.call(guest.call.function, regs, store, limit)
        asked.append((number, store, limit))
    for address, word in _differing(memory, now).items():
        errands.poke(address, word)
    done = errands.run(guest.gdb, registers)
    points: list[Point] = []
    for sight, (number, store, limit) in zip(sights, asked, strict=False):
        count = min(done.result(number) & 0xFFFF_FFFF, limit)
        point = Point(sight.registers, sight.host, done.words(store, count))
        if not point.agrees and limit < TRACE_LIMIT:
            (point,) = _asked(guest, [sight], registers, now, whole=True)
        points.append(point)
    return points


def _asked_by_hand(
    guest: Guest,
    sight: Sight,
    registers: Registers,
    now: dict[int, int],
    pokes: dict[int, int],
) -> list[Point]:
    """Ask about ``sight``, since which more was written than there is room to say."""
    for address, word in pokes.items():
        guest.gdb.write(address, word.to_bytes(8, "little"))
    told = _asked(guest, [replace(sight, words={})], registers, {}, whole=True)
    for address in pokes:
        guest.gdb.write(address, now[address].to_bytes(8, "little"))
    return told


def _differing(memory: dict[int, int], wanted: dict[int, int]) -> dict[int, int]:
    """Return what of ``wanted`` is not in ``memory``, which has no more than that."""
    return {
        address: word
        for address, word in wanted.items()
        if memory.get(address, word) != word
    }


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
    """Reads guest memory in windows; good for one stop only.

    ``words`` are those that were read; without ``stacks`` no more than ``windows`` are.
    """

    gdb: Gdb
    windows: list[tuple[int, bytes]]
    stacks: GuestStacks = field(default_factory=lambda: GuestStacks(()))
    words: dict[int, int] = field(default_factory=dict)

    def read_word(self, address: int) -> int:
        """Return the word at ``address``, which is on one of the stacks."""
        if (known := self.words.get(address)) is not None:
            return known
        self.words[address] = word = self._read(address)
        return word

    def _read(self, address: int) -> int:
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
