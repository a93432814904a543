"""Sample: where a running guest is stopped so that its unwinder can be asked.

Three kinds of place: wherever it happens to be (break-in, then single steps), the
entry code (found by what the table says of it, not by name), and instruction starts
that exist only because the kernel patched its text.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Collection, Generator, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from harness.boot.gdb import Gdb
from harness.boot.kernel_text import KernelText
from harness.boot.registers import Registers
from harness.boot.wire import LostGuest
from harness.elf.alternative import Alternatives
from harness.elf.orc import OrcType
from harness.elf.paravirt import parse_parainstructions
from harness.elf.program import Program
from harness.text.decode import decode_all

LIVE_BREAKPOINTS = 96  # many more and QEMU's TCG crawls
RUN_S = 0.002
PATIENCE = 6  # times the longest wait for a breakpoint so far, for the next
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


def hits(
    gdb: Gdb, addresses: Collection[int], seconds: float, least_s: float | None = None
) -> Generator[Registers, None, None]:
    """Yield the guest at each of ``addresses`` that it reaches, once each.

    Ends when none was reached for ``seconds``, or all were; with ``least_s`` when none
    was for that long, and for much longer than for any before. Where somebody has a
    breakpoint already it is theirs, and left alone. The consumer may remove breakpoints
    (those that its own calls run into), and must close us.
    """
    mine = set(addresses) - gdb.breakpoints
    gdb.insert_breakpoints(mine)
    try:
        patience_s, longest_s = seconds, 0.0
        while mine & gdb.breakpoints:
            started = time.monotonic()
            stop = gdb.run_for(patience_s)
            took_s = time.monotonic() - started
            registers = gdb.registers()
            if registers.rip in mine:
                gdb.remove_breakpoint(registers.rip)
                mine.discard(registers.rip)
                longest_s = max(longest_s, took_s)
                if least_s is not None:
                    patience_s = min(seconds, max(PATIENCE * longest_s, least_s))
                yield registers
            elif not stop.trapped or took_s > patience_s:
                return
    finally:
        with contextlib.suppress(LostGuest):  # who consumes us knows already
            gdb.remove_breakpoints(mine)


def _cfa(text: KernelText, address: int) -> tuple[int, int] | None:
    if (index := text.find(address)) is None:
        return None
    entry = text.entry(index)
    return entry.sp_reg, entry.sp_offset
