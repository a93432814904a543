"""Patch: the texts that alternatives give a site, as the kernel really writes them.

A site has n+1 streams: its original and each replacement, padded with NOPs. How
the NOPs end up depends on the kernel (arch/x86/kernel/alternative.c):

    E1  4.14 - 5.12   fill is merged into NOPs of at most 8 bytes
    E2  5.13 - 6.2,   runs of single-byte NOPs anywhere, at most 8 bytes each
        5.10.131 and later
    E4  6.3 - 6.10    runs of any NOPs become one of at most 11 bytes, longer ones
                      JMP and INT3
    E5  6.11 - 6.19   the same; entries of a site may differ in length (nested)
    E6  7.0 -         the same; a site is written once, the last match wins

What counts for a stack state is where instructions start, so E4 to E6 differ only
in which texts follow each other, not in a text.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from harness.elf.alternative import Alternatives, AltFlag
from harness.elf.program import Program
from harness.text.decode import decode_all
from harness.text.insn import I64, U8, U64, Insn, InsnKind, Insns

ORIGINAL = -1
_GUARD = 16  # NOPs between streams that are decoded together
_NOP = 0x90

_NOPS = (
    b"",
    b"\x90",
    b"\x66\x90",
    b"\x0f\x1f\x00",
    b"\x0f\x1f\x40\x00",
    b"\x0f\x1f\x44\x00\x00",
    b"\x66\x0f\x1f\x44\x00\x00",
    b"\x0f\x1f\x80\x00\x00\x00\x00",
    b"\x0f\x1f\x84\x00\x00\x00\x00\x00",
    b"\x66\x0f\x1f\x84\x00\x00\x00\x00\x00",
    b"\x66\x66\x0f\x1f\x84\x00\x00\x00\x00\x00",
    b"\x66\x66\x66\x0f\x1f\x84\x00\x00\x00\x00\x00",
)


class Era(enum.StrEnum):
    """How apply_alternatives() pads and merges NOPs."""

    E1 = "E1"
    E2 = "E2"
    E4 = "E4"
    E5 = "E5"
    E6 = "E6"

    @property
    def longest_nop(self) -> int:
        """The longest NOP that it writes, in bytes."""
        return 8 if self in (Era.E1, Era.E2) else 11


def sniff_era(program: Program, alternatives: Alternatives) -> Era:
    """Tell the era from what the image holds, never from a version number.

    Entry size tells E1 and E2. Of the later ones E6 is known by the entry size that
    objtool records since then, E5 by a nested site; E4 is what remains.
    """
    if alternatives.entry_size == 13:
        return Era.E1
    if alternatives.entry_size == 12:
        return Era.E2
    section = program.section(".altinstructions")
    if section is not None and section.entsize:
        return Era.E6
    longest = alternatives.site_length[alternatives.site]
    if (alternatives.instrlen < longest).any():
        return Era.E5
    return Era.E4


@dataclass(frozen=True, slots=True)
class Streams:
    """The streams of all sites, decoded, before NOPs are merged.

    Attributes:
        site: i64[s], the stream's site, ascending; the original comes first.
        entry: i64[s], row of Alternatives, or ORIGINAL.
        insns: of all streams, at their addresses in the site; branch targets are
            those after relocation (0 where only the running kernel knows).
        first: i64[s+1], rows of ``insns`` where each stream begins.
        whole: bool[s], it ends where an instruction ends and its bytes exist.
        fill: i64[s], bytes of NOP fill behind the replacement.
    """

    site: I64
    entry: I64
    insns: Insns
    first: I64
    whole: npt.NDArray[np.bool_]
    fill: I64

    def __len__(self) -> int:
        return len(self.site)

    def rows(self, stream: int) -> list[Insn]:
        """Return the instructions of one stream."""
        first, last = int(self.first[stream]), int(self.first[stream + 1])
        return [self.insns.at(row) for row in range(first, last)]


def build_streams(program: Program, alternatives: Alternatives) -> Streams:
    """Return every text of every site, relocated to the site and padded."""
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
    cells, readable = _gather(program, source, size, width)
    direct = ~original & _direct_calls(alternatives, entry)
    insns, owner = _decode_cells(cells, home, source, size, length, direct)
    first = np.searchsorted(owner, np.arange(len(site) + 1)).astype(np.int64)
    return Streams(
        site=site,
        entry=entry,
        insns=insns,
        first=first,
        whole=readable & _ends_well(insns, first, home, size, length),
        fill=np.where(original, 0, length - size),
    )


def _direct_calls(alternatives: Alternatives, entry: I64) -> npt.NDArray[np.bool_]:
    """Entries whose call target comes from the original's pointer (6.8 and later)."""
    flagged = (alternatives.flags & AltFlag.DIRECT_CALL) != 0
    return np.asarray(flagged[entry])


def _gather(
    program: Program, source: U64, size: I64, width: int
) -> tuple[U8, npt.NDArray[np.bool_]]:
    cells = np.full((len(source), width), _NOP, np.uint8)
    readable = size == 0
    column = np.arange(width)
    for section in program.executable:
        base = np.uint64(section.address)
        inside = (source >= base) & (source < np.uint64(section.end))
        rows = np.flatnonzero(inside & (size > 0))
        if not len(rows):
            continue
        offset = (source[rows] - base).astype(np.int64)
        readable[rows] = offset + size[rows] <= len(section.data)
        at = np.minimum(offset[:, None] + column, len(section.data) - 1)
        wanted = column < size[rows, None]
        cells[rows] = np.where(wanted, section.data[at], np.uint8(_NOP))
    return cells, readable


def _decode_cells(
    cells: U8,
    home: U64,
    source: U64,
    size: I64,
    length: I64,
    direct: npt.NDArray[np.bool_],
) -> tuple[Insns, I64]:
    """Decode the streams in one go; return instructions and the stream of each."""
    width = cells.shape[1]
    starts = np.arange(len(cells), dtype=np.uint64) * np.uint64(width)
    insns = decode_all(cells.reshape(-1), 0, starts)
    owner, within = np.divmod(insns.address.astype(np.int64), width)
    keep = np.flatnonzero(within < length[owner])
    insns, owner, within = insns.take(keep), owner[keep], within[keep]
    address = home[owner] + within.astype(np.uint64)
    goes = insns.target.astype(np.int64) - owner * width
    inside = (goes >= 0) & (goes <= size[owner])
    base = np.where(inside, home[owner], source[owner])
    branch = np.isin(insns.kind, (InsnKind.CALL, InsnKind.JMP, InsnKind.JCC))
    target = np.where(branch, base + goes.astype(np.uint64), np.uint64(0))
    unknown = direct[owner] & (insns.kind == InsnKind.CALL)
    target[unknown] = 0
    return replace(insns, address=address, target=target), owner


def _ends_well(
    insns: Insns, first: I64, home: U64, size: I64, length: I64
) -> npt.NDArray[np.bool_]:
    """Streams of which both the code and the padded whole end at an instruction."""
    good = np.ones(len(home), bool)
    empty = first[1:] == first[:-1]
    last = np.maximum(first[1:] - 1, 0)
    if len(insns):
        good &= insns.end[last] == home + length.astype(np.uint64)
        owner = np.repeat(np.arange(len(home)), np.diff(first))
        within = (insns.address - home[owner]).astype(np.int64)
        ends = within + insns.size
        over = (within < size[owner]) & (ends > size[owner])
        good[owner[over]] = False
    return np.asarray(good & ~empty)


def merge_nops(insns: Sequence[Insn], era: Era, fill: int, padlen: int) -> list[Insn]:
    """Return a stream's instructions after the kernel merged its NOPs.

    ``fill`` is what pads a replacement, ``padlen`` what the entry of an original
    says (E1 only).
    """
    end = insns[-1].end if insns else 0
    merged: list[Insn] = []
    run: list[Insn] = []
    for insn in insns:
        if _mergeable(insn, era, end - (fill or padlen)):
            run.append(insn)
            continue
        merged += _nops(run, era)
        run = []
        merged.append(insn)
    if era is Era.E1 and not fill and not _pads_first(insns, padlen):
        return list(insns)
    return [*merged, *_nops(run, era)]


def _mergeable(insn: Insn, era: Era, tail: int) -> bool:
    if insn.kind is not InsnKind.NOP:
        return False
    if era is Era.E1:
        return insn.code == b"\x90" and insn.address >= tail
    return era is not Era.E2 or insn.code == b"\x90"


def _pads_first(insns: Sequence[Insn], padlen: int) -> bool:
    """E1 looks at the first ``padlen`` bytes and then pads the last (both a NOP?)."""
    head = b"".join(insn.code for insn in insns)[:padlen]
    return padlen > 1 and head == b"\x90" * padlen


def _nops(run: Sequence[Insn], era: Era) -> Iterator[Insn]:
    if not run:
        return
    at, end = run[0].address, run[-1].end
    if era.longest_nop == 11 and end - at > 11:
        yield from _jump_over(at, end)
        return
    while at < end:
        size = min(end - at, era.longest_nop)
        yield Insn(at, size, InsnKind.NOP, 0, _NOPS[size])
        at += size


def _jump_over(at: int, end: int) -> Iterator[Insn]:
    if end - at < 128:
        code = bytes([0xEB, end - at - 2])
    else:
        code = b"\xe9" + (end - at - 5).to_bytes(4, "little", signed=True)
    yield Insn(at, len(code), InsnKind.JMP, end, code)
    for address in range(at + len(code), end):
        yield Insn(address, 1, InsnKind.TRAP, 0, b"\xcc")


def text(insns: Sequence[Insn]) -> bytes:
    """Return the bytes of a stream, direct branches encoded for where they are."""
    return b"".join(_encoded(insn) for insn in insns)


def _encoded(insn: Insn) -> bytes:
    if not insn.target:
        return insn.code
    size = 1 if insn.size < 4 else 4
    relative = insn.target - insn.end
    if size == 1 and not -128 <= relative < 128:
        return insn.code  # the kernel would refuse, too
    return insn.code[:-size] + relative.to_bytes(size, "little", signed=True)
