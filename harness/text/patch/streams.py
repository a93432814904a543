"""Streams: the texts that alternatives give a site, decoded.

A site has n+1 streams: its original and each replacement, padded with NOPs. They
are as linked here; :meth:`Streams.written` gives them as the kernel writes them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

from harness.elf.alternative import Alternatives, AltFlag
from harness.elf.column import distinct
from harness.elf.program import Program
from harness.text.decode import decode_all
from harness.text.insn import I64, U8, U64, Insn, InsnKind, Insns
from harness.text.patch.era import sniff_era
from harness.text.patch.kind import Era, NopTable
from harness.text.patch.nops import Padding, as_written, text
from harness.text.patch.relocation import relocated

ORIGINAL = -1
_GUARD = 16  # NOPs between streams that are decoded together
_NOP = 0x90
_NEAR = 5  # bytes of CALL and JMP with a 32-bit target


class Streams(Struct, frozen=True):
    """The streams of all sites, decoded, before NOPs are merged.

    Attributes:
        site: i64[s], the stream's site, ascending; the original comes first.
        entry: i64[s], row of Alternatives, or ORIGINAL.
        insns: of all streams, at their addresses in the site; branch targets are
            those after relocation (0 where only the running kernel knows).
        first: i64[s+1], rows of ``insns`` where each stream begins.
        whole: bool[s], it ends where an instruction ends and its bytes exist.
        fill: i64[s], bytes of NOP fill behind the replacement.
        padlen: i64[s], of an original, what the entry says (E1 only).
        length: i64[s], bytes of the replacement, 0 for an original.
        moved: i64[s], how far from the place where it was linked to the site.
        era: how the kernel writes them.
    """

    site: I64
    entry: I64
    insns: Insns
    first: I64
    whole: npt.NDArray[np.bool_]
    fill: I64
    padlen: I64
    length: I64
    moved: I64
    era: Era

    def __len__(self) -> int:
        return len(self.site)

    def rows(self, stream: int) -> list[Insn]:
        """Return the instructions of one stream."""
        first, last = int(self.first[stream]), int(self.first[stream + 1])
        return [self.insns.at(row) for row in range(first, last)]

    def written(
        self,
        stream: int,
        table: NopTable = NopTable.P6,
        rows: Sequence[Insn] | None = None,
    ) -> list[Insn]:
        """Return the instructions of one stream as the kernel writes them.

        ``rows`` are those of :meth:`rows`, if they are at hand.
        """
        padding = Padding(
            int(self.fill[stream]), int(self.padlen[stream]), int(self.length[stream])
        )
        linked = self.rows(stream) if rows is None else rows
        return as_written(linked, self.era, padding, table)

    def text(self, stream: int, table: NopTable = NopTable.P6) -> bytes:
        """Return the bytes of one stream as the kernel writes them.

        Since 6.5 %rip-relative operands are relocated, too.
        """
        insns = self.written(stream, table)
        moved = int(self.moved[stream])
        if moved and self.era.relocates_all:
            end = insns[0].address + int(self.length[stream])
            insns = [relocated(insn, insns[0].address, end, moved) for insn in insns]
        return text(insns)


def build_streams(
    program: Program, alternatives: Alternatives, era: Era | None = None
) -> Streams:
    """Return every text of every site, relocated to the site and padded.

    ``era`` is what the program itself tells unless it is given: a module is patched
    by its kernel.
    """
    era = era or sniff_era(program, alternatives)
    sites = len(alternatives.site_address)
    site = np.concatenate([np.arange(sites), alternatives.site]).astype(np.int64)
    entry = np.concatenate([np.full(sites, ORIGINAL), np.arange(len(alternatives))])
    order = np.lexsort((entry, site))
    site, entry = site[order], entry[order].astype(np.int64)
    length = alternatives.site_length[site]
    original = entry == ORIGINAL
    home = alternatives.site_address[site]
    source = np.where(original, home, alternatives.replacement[entry])
    size = np.where(original, length, alternatives.replacementlen[entry])
    size = np.minimum(size, length)
    width = int(length.max(initial=0)) + _GUARD
    cells, readable = gather(program, source, size, width)
    direct = ~original & _direct_calls(alternatives, entry)
    insns, owner = _decode_cells(cells, home, source, size, length, era)
    insns.target[direct[owner] & (insns.kind == InsnKind.CALL)] = 0
    first = np.searchsorted(owner, np.arange(len(site) + 1)).astype(np.int64)
    return Streams(
        site=site,
        entry=entry,
        insns=insns,
        first=first,
        whole=readable & _ends_well(insns, first, home, size, length),
        fill=np.where(original, 0, length - size),
        padlen=np.where(original, _longest_padding(alternatives)[site], 0),
        length=np.where(original, 0, size),
        moved=(home - source).astype(np.int64),
        era=era,
    )


def _longest_padding(alternatives: Alternatives) -> I64:
    """Return i64[m], the bytes of padding that the entries of each site tell."""
    longest = np.zeros(len(alternatives.site_address), np.int64)
    np.maximum.at(longest, alternatives.site, alternatives.padlen.astype(np.int64))
    return longest


def _direct_calls(alternatives: Alternatives, entry: I64) -> npt.NDArray[np.bool_]:
    """Entries whose call target comes from the original's pointer (6.8 and later)."""
    flagged = (alternatives.flags & AltFlag.DIRECT_CALL) != 0
    return np.asarray(flagged[entry])


def gather(
    program: Program, source: U64, size: I64, width: int
) -> tuple[U8, npt.NDArray[np.bool_]]:
    """Return u8[n, width], the code at each place, and whether it is all there.

    Behind ``size`` bytes there are NOPs.
    """
    cells = np.full((len(source), width), _NOP, np.uint8)
    readable = size == 0
    lies = np.where(size > 0, program.sections_at(source), -1)
    for index in distinct(lies[lies >= 0]).tolist():
        section = program.sections[index]
        if not section.executable or not section.data.size:
            continue
        rows = np.flatnonzero(lies == index)
        here = size[rows]
        offset = (source[rows] - np.uint64(section.address)).astype(np.int64)
        readable[rows] = offset + here <= len(section.data)
        within = np.arange(here.sum()) - np.repeat(np.cumsum(here) - here, here)
        at = np.minimum(np.repeat(offset, here) + within, len(section.data) - 1)
        cells[np.repeat(rows, here), within] = section.data[at]
    return cells, readable


def _decode_cells(
    cells: U8,
    home: U64,
    source: U64,
    size: I64,
    length: I64,
    era: Era,
) -> tuple[Insns, I64]:
    """Decode the streams in one go; return instructions and the stream of each."""
    used = np.arange(cells.shape[1]) < (length + _GUARD)[:, None]
    starts = np.cumsum(length + _GUARD) - (length + _GUARD)
    insns = decode_all(cells[used], 0, starts.view(np.uint64))
    owner = np.searchsorted(starts, insns.address.view(np.int64), side="right") - 1
    within = insns.address.view(np.int64) - starts[owner]
    keep = np.flatnonzero(within < length[owner])
    insns, owner, within = insns.take(keep), owner[keep], within[keep]
    address = home[owner] + within.astype(np.uint64)
    goes = insns.target.view(np.int64) - starts[owner]
    inside = (goes >= 0) & (goes <= size[owner])
    stays = (
        inside if era.relocates_all else inside | ~_alone(insns, within, size[owner])
    )
    base = np.where(stays, home[owner], source[owner])
    branch = np.isin(insns.kind, (InsnKind.CALL, InsnKind.JMP, InsnKind.JCC))
    target = np.where(branch, base + goes.astype(np.uint64), np.uint64(0))
    return replace(insns, address=address, target=target), owner


def _alone(insns: Insns, within: I64, size: I64) -> npt.NDArray[np.bool_]:
    """Branches that kernels before 6.5 relocate: they are all of a replacement."""
    near = np.isin(insns.code[:][:, 0], (0xE8, 0xE9))
    return np.asarray(near & (within == 0) & (size == _NEAR))


def _ends_well(
    insns: Insns, first: I64, home: U64, size: I64, length: I64
) -> npt.NDArray[np.bool_]:
    """Streams of which both the code and the padded whole end at an instruction."""
    good = np.ones(len(home), bool)
    empty = first[1:] == first[:-1]
    last = np.maximum(first[1:] - 1, 0)
    if len(insns):
        good &= insns.ends(last) == home + length.astype(np.uint64)
        owner = np.repeat(np.arange(len(home)), np.diff(first))
        within = (insns.address - home[owner]).astype(np.int64)
        ends = within + insns.size
        over = (within < size[owner]) & (ends > size[owner])
        good[owner[over]] = False
    return np.asarray(good & ~empty)
