"""Covered: what a boot under the plugin has covered of what its kernel can reach."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from msgspec import Struct

from harness.boot import initramfs
from harness.boot.shadow.record import Record
from harness.boot.shadow.texts import texts
from harness.coverage import Cold, Coverage, Things, things
from harness.elf.column import among, distinct
from harness.elf.feature import Features
from harness.elf.load import parse
from harness.elf.paravirt import parse_parainstructions
from harness.elf.place import Places
from harness.elf.program import Program
from harness.result import Kind
from harness.text.insn import U8, U64
from harness.text.patch import nop_tables
from harness.text.patch.said import bytes_at
from harness.variant import Platform
from harness.verify.columns import Columns, read_columns
from harness.verify.extent import typed
from harness.verify.reach import Reached, reached
from harness.verify.successor import Bools, defined
from harness.verify.variant import Variants

_IN_FRONT = 16  # bytes of a function's padding that the kernel writes code into
_NOP, _MOV_EAX, _MOV_EAX_BYTES = 0x90, 0xB8, 5  # of it, and of kCFI's hash there


class Covered(Struct, frozen=True):
    """What was covered.

    Attributes:
        beyond: executed instructions that are in none of the reachable texts: what
            control does and the graph does not know.
        foreign: executed instructions in sites that no text of the site has.
    """

    coverage: Coverage
    beyond: int
    foreign: int

    @property
    def counts(self) -> dict[str, int]:
        """Numbers by name."""
        return {
            **self.coverage.counts,
            "executed_unreached": self.beyond,
            "executed_in_no_text": self.foreign,
        }


def covered(
    program: Program,
    features: Features,
    modules: Iterable[Path],
    platform: Platform,
    record: Record,
) -> Covered:
    """Return what ``record``, of a boot of ``program``, has covered.

    ``features`` are its names of them. The guest was given ``modules``: what they
    import is reachable.

    Raises:
        FormatError: the program has no ORC, or a table that we cannot read.
    """
    columns = read_columns(program, features)
    assert columns is not None, "a kernel without ORC was checked"
    can = reached(columns, platform, _imported(program, modules))
    did = _Did(columns, can, record, Places(program))
    every = {
        Kind.ENTRIES: did.entries(),
        Kind.FUNCTIONS: did.functions(),
    }
    if columns.alternatives is None or columns.streams is None:
        return Covered(Coverage(every), did.beyond, 0)
    tables = nop_tables(program, columns.streams.era)
    calls = parse_parainstructions(program)
    addresses = np.zeros(0, np.uint64) if calls is None else calls.address
    ran = texts(record, columns.alternatives, columns.streams, tables, addresses)
    every[Kind.SITES] = did.sites()
    every[Kind.TEXTS] = did.texts(ran.executed, ran.verified)
    coverage = Coverage(every, did.cold(every[Kind.SITES], features))
    return Covered(coverage, did.beyond, ran.foreign)


def _imported(program: Program, modules: Iterable[Path]) -> U64:
    """Return where the symbols are that the modules which a guest gets name."""
    found: set[int] = set()
    for name, data in initramfs.taken(list(modules)).items():
        module = parse(data, name, Path(name))
        addresses = map(program.symbols.find, module.externals.values())
        found |= {address for address in addresses if address is not None}
    return np.array(sorted(found), np.uint64)


class _Did(Struct, frozen=True):
    """What control can do and what it did; ``places`` name it."""

    columns: Columns
    can: Reached
    record: Record
    places: Places

    @property
    def beyond(self) -> int:
        """Instructions that were executed and cannot be.

        Control can come to what the kernel patched into the bytes of one that is
        reached, or into the padding in front of a function that is.
        """
        insns = self.columns.insns
        ran = np.flatnonzero(self.columns.program.in_code(self.record.pc))
        pc = self.record.pc[ran]
        row = np.searchsorted(insns.address, pc, side="right") - 1
        patched = (row >= 0) & (insns.end[row] > pc)
        begin = np.where(patched, insns.address[row], pc)
        left = ~self.can.hold(begin, pc + np.uint64(1))
        ran, pc = ran[left], pc[left]
        return len(distinct(pc[~self._in_front(pc, self.record.code[ran, 0])]))

    def _in_front(self, pc: U64, byte: U8) -> Bools:
        """Tell of what was executed whether it is padding of a reached function.

        Where calls are counted, and with FineIBT, the kernel writes code there, part of
        which may be as it was; ``byte`` is the first of each that was executed.
        """
        begin, _ = typed(self.columns.program)
        begin = begin[self.can.hold(begin, begin + np.uint64(1))]
        if not len(begin):
            return np.zeros(len(pc), bool)
        next_one = np.searchsorted(begin, pc, side="right")
        function = begin[np.minimum(next_one, len(begin) - 1)]
        close = (pc < function) & (pc + self._padding(function) >= function)
        written = byte != bytes_at(self.columns.program, pc, 1)[:, 0]
        return np.asarray(close & among(function, distinct(function[close & written])))

    def _padding(self, function: U64) -> U64:
        """Return how many bytes in front of each are NOPs, behind a hash or not."""
        size = np.uint64(_IN_FRONT)
        code = bytes_at(self.columns.program, function - size, _IN_FRONT)
        fill = np.cumprod(code[:, ::-1] == _NOP, axis=1).sum(axis=1)
        hashed = (code[:, 0] == _MOV_EAX) & (fill >= _IN_FRONT - _MOV_EAX_BYTES)
        return np.where(hashed, _IN_FRONT, fill).astype(np.uint64)

    def _ranges(self, begin: U64, end: U64, key: U64, live: Bools) -> Things:
        pc = self.record.pc
        right = pc[self.record.verified > 0]
        return things(
            key,
            self.can.hold(begin, end) & live,
            np.searchsorted(pc, begin) < np.searchsorted(pc, end),
            np.searchsorted(right, begin) < np.searchsorted(right, end),
        )

    def entries(self) -> Things:
        """Return the entries of the table that have a state."""
        lookup = self.columns.lookup
        rows = np.flatnonzero(defined(lookup.state))
        last = np.uint64((1 << 64) - 1)
        end = np.append(lookup.ip[1:], last)[rows]
        begin = lookup.ip[rows]
        key = self.places.of(begin, lookup.state[rows])
        return self._ranges(begin, end, key, np.ones(len(rows), bool))

    def functions(self) -> Things:
        """Return what is a function to the assembler."""
        begin, end = typed(self.columns.program)
        key = self.places.of(begin)
        return self._ranges(begin, end, key, np.ones(len(begin), bool))

    def sites(self) -> Things:
        """Return the sites of alternatives."""
        alternatives = self.columns.alternatives
        assert alternatives is not None
        begin = alternatives.site_address
        end = begin + alternatives.site_length.astype(np.uint64)
        return self._ranges(begin, end, self.places.of(begin), self._live())

    def _live(self) -> Bools:
        """Tell of each site whether its first instruction is reached."""
        assert self.columns.alternatives is not None
        begin = self.columns.alternatives.site_address
        return self.can.hold(begin, begin + np.uint64(1))

    def texts(self, executed: Bools, verified: Bools) -> Things:
        """Return the texts of the sites, of which the platform can run some."""
        alternatives, streams = self.columns.alternatives, self.columns.streams
        assert alternatives is not None
        assert streams is not None
        number = np.arange(len(streams)) - np.searchsorted(streams.site, streams.site)
        key = self.places.of(alternatives.site_address[streams.site], number)
        return things(key, self.can.texts, executed, verified)

    def cold(self, sites: Things, features: Features) -> dict[int, Cold]:
        """Return the sites that are reachable and were not verified."""
        alternatives, program = self.columns.alternatives, self.columns.program
        assert alternatives is not None
        address = alternatives.site_address
        key = self.places.of(address)
        left = sites.key[sites.reachable & ~sites.verified]
        begin, end = typed(program)
        names = Variants(alternatives, features)
        found = {}
        for site in np.flatnonzero(np.isin(key, left)).tolist():
            at = int(np.searchsorted(begin, address[site], side="right")) - 1
            first, last = np.searchsorted(self.record.pc, [begin[at], end[at]])
            heat = int(self.record.executed[first:last].max(initial=0))
            entry = int(alternatives.site_first[site])
            asks = range(entry, entry + int(alternatives.site_count[site]))
            words = ", ".join(names.condition(one) for one in asks)
            place = f"{program.location(int(address[site]))} ({words})"
            found[int(key[site])] = Cold(place, heat)
        return found
