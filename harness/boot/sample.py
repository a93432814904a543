"""Sample: where a running guest is stopped so that its unwinder can be asked.

Three kinds of place: wherever it happens to be (break-in, then single steps), the
entry code (found by what the table says of it, not by name), and instruction starts
that exist only because the kernel patched its text.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from harness.boot.gdb import Gdb, UnmappedMemory
from harness.boot.kernel_text import KernelText
from harness.boot.registers import Registers
from harness.boot.stack_info import IRQ, TASK, CpuStacks
from harness.boot.wire import LostGuest
from harness.elf.alternative import Alternatives
from harness.elf.orc import OrcType
from harness.elf.paravirt import parse_parainstructions
from harness.elf.program import Program
from harness.text.decode import decode_all

LIVE_BREAKPOINTS = 96  # many more and QEMU's TCG crawls
RUN_S = 0.002
_NEAR_BYTES = (0, 16, 64, 512)
_ENOUGH = 64  # times, to know that something runs
_HLT = 0xF4
_NOP = b"\x90"
_APART = 16  # no instruction is longer: each piece is decoded on its own


class PatchedStarts(Struct, frozen=True):
    """Instruction starts inside of sites that only patching made.

    Attributes:
        address: u64[n], sorted.
        site: u64[n], where the site begins.
        other_cfa: bool[n], the table says something else there than at the site.
        sites: how many sites the running kernel has patched at all.
    """

    address: npt.NDArray[np.uint64]
    site: npt.NDArray[np.uint64]
    other_cfa: npt.NDArray[np.bool_]
    sites: int


def entry_points(program: Program, text: KernelText) -> tuple[int, ...]:
    """Return where the kernel is entered other than by a call, sorted.

    Those are the symbols at whose first byte the table says that registers lie on
    the stack, or that the stack ends. Code that ran at boot only is left out.
    """
    symbols = program.symbols
    begin, end = text.ranges[0]
    inside = (symbols.address >= np.uint64(begin)) & (symbols.address < np.uint64(end))
    found = set()
    for address in np.unique(symbols.address[inside & (symbols.size > 0)]).tolist():
        index = text.find(address)
        assert index is not None
        kind = text.entry(index).type
        if kind in (OrcType.END_OF_STACK, OrcType.REGS, OrcType.REGS_PARTIAL):
            found.add(address)
    return tuple(sorted(found - {begin}))


def patched_starts(
    gdb: Gdb, program: Program, alternatives: Alternatives, text: KernelText
) -> PatchedStarts:
    """Read every site from the stopped guest and find the starts that patching made.

    Sites are those of alternatives and, up to 6.7, the calls through pv_ops.
    """
    begin, end = map(np.uint64, text.ranges[0])
    address, length = alternatives.site_address, alternatives.site_length
    if (calls := parse_parainstructions(program)) is not None:
        alone = ~np.isin(calls.address, address)
        address = np.concatenate([address, calls.address[alone]])
        length = np.concatenate([length, calls.length[alone].astype(np.int64)])
    kept = (address >= begin) & (address < end)
    places = list(zip(address[kept].tolist(), length[kept].tolist(), strict=True))
    originals = [program.read(*place).tobytes() for place in places]
    changed = [
        (site, original, code)
        for (site, _), original, code in zip(
            places, originals, gdb.read_many(places), strict=True
        )
        if original != code
    ]
    before = starts_inside([original for _, original, _ in changed])
    after = starts_inside([code for _, _, code in changed])
    rows = [
        (site + offset, site)
        for (site, _, _), old, new in zip(changed, before, after, strict=True)
        for offset in new - old
    ]
    rows.sort()
    table = np.array(rows, np.uint64).reshape(-1, 2)
    other = [_cfa(text, place) != _cfa(text, site) for place, site in rows]
    return PatchedStarts(table[:, 0], table[:, 1], np.array(other, bool), len(changed))


def starts_inside(codes: Sequence[bytes]) -> list[set[int]]:
    """Return for each of ``codes`` the offsets, but 0, where instructions start."""
    stride = max(map(len, codes), default=0) + _APART
    joined = b"".join(code.ljust(stride, _NOP) for code in codes)
    begins = np.arange(len(codes), dtype=np.uint64) * np.uint64(stride)
    insns = decode_all(np.frombuffer(joined, np.uint8), 0, begins)
    found: list[set[int]] = [set() for _ in codes]
    for address in insns.address.tolist():
        number, offset = divmod(address, stride)
        if 0 < offset < len(codes[number]):
            found[number].add(offset)
    return found


def by_traffic(
    places: npt.NDArray[np.uint64], seen: Mapping[int, int]
) -> npt.NDArray[np.uint64]:
    """Return ``places``, those first around which most addresses were ``seen``.

    What lies between two branches is executed together, and who called from there will
    be back there, above all at the very address. ``seen`` has how often each was seen.
    """
    addresses = np.array(sorted(seen), np.uint64)
    counts = np.array([seen[address] for address in addresses.tolist()], np.int64)
    total = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    density = np.zeros(len(places))
    for near in _NEAR_BYTES:
        last = np.searchsorted(addresses, places + np.uint64(near), "right")
        first = np.searchsorted(addresses, places - np.uint64(near), "left")
        density += np.minimum(total[last] - total[first], _ENOUGH) / (2 * near + 1)
    return places[np.argsort(-density, kind="stable")]


def usable(program: Program, text: KernelText, registers: Registers) -> bool:
    """Tell whether the guest stopped in kernel text, and not halted.

    A halted vCPU executes nothing, so no call could be made on it; it stands behind
    its ``hlt``.
    """
    if not text.holds(registers.rip) or not text.holds(registers.rip - 1):
        return False
    return not halted(program, text, registers)


def halted(program: Program, text: KernelText, registers: Registers) -> bool:
    """Tell whether the vCPU stands behind a ``hlt``: it waits for an interrupt."""
    before = registers.rip - 1
    return text.holds(before) and int(program.read(before, 1)[0]) == _HLT


def wander(
    gdb: Gdb, program: Program, text: KernelText, rng: random.Random, steps: int
) -> Iterator[Iterator[Registers]]:
    """Let the guest run for a moment, break in, then yield each vCPU's walk.

    The consumer must leave the guest as it was.
    """
    gdb.run_for(rng.random() * RUN_S)
    for number, registers in enumerate(gdb.vcpus()):
        gdb.select(number)
        yield walk(gdb, program, text, registers, steps)


def walk(
    gdb: Gdb, program: Program, text: KernelText, first: Registers, steps: int
) -> Iterator[Registers]:
    """Yield ``first`` and the states after each of ``steps`` instructions.

    Ends early where the guest leaves the kernel's text, and where it cannot be stepped.
    """
    registers = first
    for _ in range(steps if gdb.steps else 0):
        if not usable(program, text, registers):
            return
        yield registers
        registers = gdb.step_registers()
    if usable(program, text, registers):
        yield registers


def glimpse(gdb: Gdb, cpu: CpuStacks, text: KernelText) -> list[int]:
    """Return the addresses of text on the stacks of the task that runs, and of ``cpu``.

    What has returned leaves its address below the stack pointer until the next call of
    that depth, also while a program runs: where the kernel has just been it will most
    likely be again. Some are no return addresses; who wants to know where to wait is not
    harmed by that. Nothing is seen on a user's page tables.
    """
    try:
        stacks, _ = cpu.current(gdb.read_many, 0, 0)
        used = [one for one in stacks.all if one.type in (TASK, IRQ)]
        found = gdb.read_many([(one.begin, one.end - one.begin) for one in used])
    except UnmappedMemory:
        return []
    words = np.frombuffer(b"".join(found), "<u8")
    first, last = map(np.uint64, text.ranges[0])
    inside: list[int] = words[(words >= first) & (words < last)].tolist()
    return inside


class Ambush:
    """Breakpoints of ours, each of which goes when the guest comes to it; see `ambush`.

    Where somebody has a breakpoint already it is theirs, and left alone.
    """

    def __init__(self, gdb: Gdb) -> None:
        self._gdb = gdb
        self._mine: set[int] = set()
        self.waited_s = 0.0

    @property
    def places(self) -> frozenset[int]:
        """Where the guest is still waited for: calls may have removed some, too."""
        return self._gdb.breakpoints & self._mine

    def lay(self, addresses: Iterable[int]) -> None:
        """Wait at ``addresses``, and nowhere else."""
        wanted = set(addresses)
        self._gdb.remove_breakpoints(self._mine - wanted)
        self._mine &= wanted & self._gdb.breakpoints
        new = wanted - self._gdb.breakpoints
        self._gdb.insert_breakpoints(new)
        self._mine |= new

    def wait(self, seconds: float) -> Registers | None:
        """Let the guest run to one of the places; None if it came to none."""
        began = time.monotonic()
        try:
            return self._wait(began + seconds)
        finally:
            self.waited_s += time.monotonic() - began

    def _wait(self, ends: float) -> Registers | None:
        while self.places and (left := ends - time.monotonic()) > 0:
            stop = self._gdb.run_for(left)
            registers = self._gdb.registers()
            if registers.rip in self._mine:
                self._gdb.remove_breakpoint(registers.rip)
                self._mine.discard(registers.rip)
                return registers
            if not stop.trapped:
                return None
        return None


@contextlib.contextmanager
def ambush(gdb: Gdb) -> Iterator[Ambush]:
    """Yield an ambush without a place; it leaves no breakpoint."""
    laid = Ambush(gdb)
    try:
        yield laid
    finally:
        with contextlib.suppress(LostGuest):  # whoever waits knows already
            laid.lay(())


def hits(
    gdb: Gdb, addresses: Collection[int], seconds: float
) -> Generator[Registers, None, None]:
    """Yield the guest at each of ``addresses`` that it reaches, once each.

    Ends when none was reached for ``seconds``, or all were. The consumer must close us.
    """
    with ambush(gdb) as laid:
        laid.lay(addresses)
        while (registers := laid.wait(seconds)) is not None:
            yield registers


def _cfa(text: KernelText, address: int) -> tuple[int, int] | None:
    if (index := text.find(address)) is None:
        return None
    entry = text.entry(index)
    return entry.sp_reg, entry.sp_offset
