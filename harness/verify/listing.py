"""Listing: a stretch of code beside its ORC table, as people look at it.

Plain instructions have one line each; an alternative site has a row per byte at
which something happens, and a column for each of its texts.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from msgspec import Struct

from harness.elf.orc import describe
from harness.text.insn import Insn, InsnKind
from harness.text.patch import ORIGINAL, Era, merge_nops, sniff_era
from harness.verify.callee import Callees, Returns
from harness.verify.columns import Columns
from harness.verify.texts.walk import Site, Walk, walk
from harness.verify.transfer import ENTRY, is_defined, step
from harness.verify.variant import Variants
from harness.verify.window import insn_text


class Line(Struct, frozen=True):
    """One instruction outside of any site.

    Attributes:
        offset: bytes from the listing's start.
        address: linked, or ours for an object.
        code: its bytes in hexadecimal.
        text: AT&T syntax, branch targets by name.
        state: what the table says before it.
        after: what the instruction makes of that state, empty if nothing.
        fits: the table agrees behind it, and at its target.
    """

    offset: int
    address: int
    code: str
    text: str
    state: str
    after: str
    fits: bool


class Text(Struct, frozen=True):
    """One text of a site: its name and the platforms that run it."""

    label: str
    platforms: tuple[str, ...]


class Cell(Struct, frozen=True):
    """One instruction of a text; ``state`` is the true one, empty if never reached."""

    code: str
    text: str
    state: str


class Row(Struct, frozen=True):
    """One byte of a site: the table's state, and each text's instruction if any."""

    offset: int
    state: str
    cells: tuple[Cell | None, ...]


class SiteListing(Struct, frozen=True):
    """One alternative site; ``offset`` counts from the listing's start."""

    offset: int
    address: int
    length: int
    texts: tuple[Text, ...]
    rows: tuple[Row, ...]


class Listing(Struct, frozen=True):
    """The code of [address, address + size) in order."""

    object: str
    symbol: str
    address: int
    size: int
    parts: tuple[Line | SiteListing, ...]


def list_code(columns: Columns, symbol: str, address: int, size: int) -> Listing:
    """Return the listing of ``size`` bytes at ``address``, which is ``symbol``."""
    drawer = _Drawer(columns, address)
    parts = tuple(drawer.parts(address, address + size))
    return Listing(columns.program.name, symbol, address, size, parts)


class _Drawer:
    def __init__(self, columns: Columns, start: int) -> None:
        self._columns = columns
        self._start = start
        self._callees = Callees(columns.program, columns.insns, columns.lookup)

    def parts(self, first: int, last: int) -> Iterator[Line | SiteListing]:
        """Yield what lies in [first, last); a site that it touches comes whole."""
        insns = self._columns.insns
        sites = self._sites(first, last)
        row = int(np.searchsorted(insns.address, np.uint64(first)))
        while row < len(insns) and int(insns.address[row]) < last:
            at = int(insns.address[row])
            if sites and sites[0][0] <= at:
                address, number = sites.pop(0)
                site = self._site(number)
                yield site
                row = int(
                    np.searchsorted(insns.address, np.uint64(address + site.length))
                )
                continue
            yield self._line(row)
            row += 1

    def _sites(self, first: int, last: int) -> list[tuple[int, int]]:
        alternatives = self._columns.alternatives
        if alternatives is None:
            return []
        start = alternatives.site_address
        end = start + alternatives.site_length.astype(np.uint64)
        rows = np.flatnonzero((end > np.uint64(first)) & (start < np.uint64(last)))
        return sorted((int(start[row]), row) for row in rows.tolist())

    def _line(self, row: int) -> Line:
        columns = self._columns
        insn = columns.insns.at(row)
        before = columns.insns.at(row - 1) if row else None
        if before is not None and before.end != insn.address:
            before = None
        state = columns.lookup.one(insn.address)
        after, fits = self._after(insn, state, before)
        return Line(
            insn.address - self._start,
            insn.address,
            insn.code.hex(" "),
            insn_text(columns.program, insn),
            describe(state),
            after,
            fits,
        )

    def _after(self, insn: Insn, state: int, before: Insn | None) -> tuple[str, bool]:
        """Say what ``insn`` makes of ``state``, and whether the table agrees."""
        if not is_defined(state):
            return "", True
        if insn.kind is InsnKind.RET:
            return ("returns", True) if state == ENTRY else ("returns like this", False)
        lookup = self._columns.lookup
        if insn.kind in (InsnKind.JMP, InsnKind.JCC):
            there = lookup.one(insn.target)
            if is_defined(there) and there != state:
                return f"target has {describe(there)}", False
        if insn.kind is InsnKind.CALL and insn.target:
            callee = self._callees.at(insn.target)
            if callee.returns is Returns.NEVER:
                return "does not return", True
            if callee.returns is Returns.MOVED:
                fits = lookup.one(insn.end) == callee.state
                return f"returns with {describe(callee.state)}", fits
        if not insn.kind.falls_through:
            return "", True
        return self._behind(insn, state, before)

    def _behind(self, insn: Insn, state: int, before: Insn | None) -> tuple[str, bool]:
        states = step(state, insn, before)
        behind = self._columns.lookup.one(insn.end)
        if behind in states:
            return ("" if behind == state else describe(behind)), True
        if not states:
            return "not told by its bytes", True
        # behind a call that does not return anything may follow
        unsure = insn.kind in (InsnKind.CALL, InsnKind.CALL_INDIRECT)
        return describe(states[0]), unsure

    def _site(self, number: int) -> SiteListing:
        columns = self._columns
        alternatives, streams = columns.alternatives, columns.streams
        assert alternatives is not None
        assert streams is not None
        address = int(alternatives.site_address[number])
        length = int(alternatives.site_length[number])
        at = np.arange(length + 1, dtype=np.uint64) + np.uint64(address)
        site = Site(address, length, tuple(columns.lookup.at(at).tolist()))
        first, last = np.searchsorted(streams.site, [number, number + 1]).tolist()
        era = sniff_era(columns.program, alternatives)
        walks = [self._walk(site, row, number, era) for row in range(first, last)]
        variants = Variants(alternatives, columns.features)
        entries = streams.entry[first:last].tolist()
        texts = tuple(
            Text(variants.label(number, entry), variants.platforms(number, entry))
            for entry in entries
        )
        rows = tuple(self._rows(site, walks))
        return SiteListing(address - self._start, address, length, texts, rows)

    def _walk(self, site: Site, row: int, number: int, era: Era) -> Walk:
        alternatives, streams = self._columns.alternatives, self._columns.streams
        assert alternatives is not None
        assert streams is not None
        text = streams.rows(row)
        if not streams.whole[row]:
            return walk(site, text, self._callees.at)
        first = int(alternatives.site_first[number])
        last = first + int(alternatives.site_count[number])
        original = int(streams.entry[row]) == ORIGINAL
        padlen = int(alternatives.padlen[first:last].max()) if original else 0
        merged = merge_nops(text, era, int(streams.fill[row]), padlen)
        return walk(site, merged, self._callees.at)

    def _rows(self, site: Site, walks: list[Walk]) -> Iterator[Row]:
        offsets = {0} | {
            at for at in range(1, site.length) if site.table[at] != site.table[at - 1]
        }
        for each in walks:
            offsets |= {at for at in each.insns if at < site.length}
        for offset in sorted(offsets):
            cells = tuple(self._cell(each, offset) for each in walks)
            yield Row(offset, describe(site.table[offset]), cells)

    def _cell(self, text: Walk, offset: int) -> Cell | None:
        if (insn := text.insns.get(offset)) is None:
            return None
        state = text.state.get(offset)
        return Cell(
            insn.code.hex(" "),
            insn_text(self._columns.program, insn),
            "" if state is None else describe(state),
        )
