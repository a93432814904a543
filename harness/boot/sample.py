"""Sample: where a running guest is stopped so that its unwinder can be asked.

Three kinds of place: wherever it happens to be (break-in, then single steps), the
entry code (found by what the table says of it, not by name), and instruction starts
that exist only because the kernel patched its text.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Collection, Generator, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.boot.gdb import Gdb, LostGuest
from harness.boot.kernel_text import KernelText
from harness.boot.registers import Registers
from harness.elf.alternative import Alternatives
from harness.elf.orc import OrcType
from harness.elf.program import Program
from harness.text.decode import decode

LIVE_BREAKPOINTS = 96  # many more and QEMU's TCG crawls
RUN_S = 0.002
_HLT = 0xF4
_SITES_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class PatchedStarts:
    """Instruction starts inside alternative sites that only patching made.

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
    """Read every site from the stopped guest and find the starts that patching made."""
    rows = []
    patched = 0
    places = list(
        zip(
            alternatives.site_address.tolist(),
            alternatives.site_length.tolist(),
            strict=True,
        )
    )
    places = [place for place in places if text.ranges[0][0] <= place[0]]
    places = [place for place in places if place[0] < text.ranges[0][1]]
    for start in range(0, len(places), _SITES_AT_ONCE):
        part = places[start : start + _SITES_AT_ONCE]
        for (address, length), code in zip(part, gdb.read_many(part), strict=True):
            original = program.read(address, length)
            if original.tobytes() == code:
                continue
            patched += 1
            new = starts_inside(code, address) - starts_inside(original, address)
            rows += [(place, address) for place in new]
    rows.sort()
    table = np.array(rows, np.uint64).reshape(-1, 2)
    other = [_cfa(text, place) != _cfa(text, site) for place, site in rows]
    return PatchedStarts(table[:, 0], table[:, 1], np.array(other, bool), patched)


def starts_inside(code: bytes | npt.NDArray[np.uint8], address: int) -> set[int]:
    """Return the instruction starts in ``code``, its first byte left out."""
    data = np.frombuffer(code, np.uint8) if isinstance(code, bytes) else code
    return set(decode(data, address).address.tolist()) - {address}


def usable(program: Program, text: KernelText, registers: Registers) -> bool:
    """Tell whether the guest stopped in kernel text, and not halted.

    A halted vCPU executes nothing, so no call could be made on it; it stands behind
    its ``hlt``.
    """
    if not text.holds(registers.rip) or not text.holds(registers.rip - 1):
        return False
    return int(program.read(registers.rip - 1, 1)[0]) != _HLT


def wander(
    gdb: Gdb, program: Program, text: KernelText, rng: random.Random, steps: int
) -> Iterator[Registers]:
    """Let the guest run for a moment, break in, then yield it step by step.

    The consumer must leave the guest as it was.
    """
    gdb.run_for(rng.random() * RUN_S)
    yield from walk(gdb, program, text, gdb.registers(), steps)


def walk(
    gdb: Gdb, program: Program, text: KernelText, first: Registers, steps: int
) -> Iterator[Registers]:
    """Yield ``first`` and the states after each of ``steps`` instructions.

    Ends early where the guest leaves the kernel's text.
    """
    registers = first
    for _ in range(steps):
        if not usable(program, text, registers):
            return
        yield registers
        registers = gdb.step_registers()
    if usable(program, text, registers):
        yield registers


def hits(
    gdb: Gdb, addresses: Collection[int], seconds: float
) -> Generator[Registers, None, None]:
    """Yield the guest at each of ``addresses`` that it reaches, once each.

    Ends when none was reached for ``seconds``, or all were. The consumer may
    remove breakpoints (those that its own calls run into), and must close us.
    """
    gdb.insert_breakpoints(addresses)
    mine = set(addresses)
    try:
        while mine & gdb.breakpoints:
            deadline = time.monotonic() + seconds
            stop = gdb.run_for(seconds)
            registers = gdb.registers()
            if registers.rip in mine:
                gdb.remove_breakpoint(registers.rip)
                mine.discard(registers.rip)
                yield registers
            elif not stop.trapped or time.monotonic() > deadline:
                return
    finally:
        with contextlib.suppress(LostGuest):  # who consumes us knows already
            gdb.remove_breakpoints(mine)


def _cfa(text: KernelText, address: int) -> tuple[int, int] | None:
    if (index := text.find(address)) is None:
        return None
    entry = text.entry(index)
    return entry.sp_reg, entry.sp_offset
