"""Layout: where the sections and externals of an unlinked object are put.

An object has no addresses yet, so that section offsets of different sections
would collide. We link it ourselves, roughly as the module loader does: sections
go to a low zone with space between them, so that a branch that leaves its section
lands in none; every symbol of other objects gets a slot in a far zone. Both zones
are in the top 2 GB, where the kernel's code model puts everything.

Of files that were joined (``join.py``), the tables of one name lie end to end, as in
a linked kernel: a table is what holds no code and no symbol. What several of them take from elsewhere has one slot.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from harness.elf.column import joined
from harness.elf.file import (
    RELA,
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHT_NOBITS,
    SHT_RELA,
    Bytes,
    ElfFile,
    relocation_name,
)
from harness.elf.symbol import SHN_LORESERVE, STT_SECTION, RawSymbols
from harness.errors import FormatError

SECTION_ZONE = 0xFFFF_FFFF_8100_0000
EXTERNAL_ZONE = 0xFFFF_FFFF_E000_0000
EXTERNAL_SLOT = 16
ZONE_END = 1 << 64
MAX_ALIGN = 1 << 24
# Tables whose entries are padded in front: the last one is shorter (_PARAVIRT_ALIGN in
# arch/x86/include/asm/paravirt.h, up to 6.7).
_STRIDES = {".parainstructions": 16}

# How many bytes R_X86_64_NONE, 64, PC32, PLT32, 32, 32S and PC64 write. The linker
# turns a GOTPCREL load into a plain one with the same field (9, 41, 42), because
# a kernel has no global offset table.
_SIZE = {0: 0, 1: 8, 2: 4, 4: 4, 10: 4, 11: 4, 24: 8, 9: 4, 41: 4, 42: 4}
_RELATIVE = (2, 4, 24, 9, 41, 42)
_UNKNOWN = 255
_SIZES = np.full(256, _UNKNOWN, dtype=np.uint8)
_SIZES[list(_SIZE)] = list(_SIZE.values())


class Layout(Struct, frozen=True):
    """Where everything of an object is.

    Attributes:
        section: u64[sections], 0 for those that are not laid out.
        order: i64[n], the sections that are laid out, by address.
        group: i64[n], parallel to ``order``: those of one number are one section.
        symbol: u64[symbols], in the order of the symbol table.
    """

    section: npt.NDArray[np.uint64]
    order: npt.NDArray[np.int64]
    group: npt.NDArray[np.int64]
    symbol: npt.NDArray[np.uint64]


def lay_out(elf: ElfFile, raw: RawSymbols) -> Layout:
    """Give sections and symbols of the object ``elf`` their addresses.

    Raises:
        FormatError: sizes or alignments are absurd.
    """
    rows = np.flatnonzero(_laid_out(elf))
    group = _groups(elf, raw, rows)
    by_group = np.argsort(group, kind="stable")
    order, group = rows[by_group], group[by_group]
    section = np.zeros(len(elf.headers), dtype=np.uint64)
    section[order] = _addresses(elf, order, group)
    return Layout(section, order, group, _symbol_addresses(elf, raw, section))


def relocated(elf: ElfFile, raw: RawSymbols, layout: Layout) -> dict[int, Bytes]:
    """Return the contents of the laid-out sections, relocations applied.

    The relocations of a livepatch (``.klp.rela.*``) count among them. Results are
    truncated to the field as a C cast would: whether the final addresses fit is the
    linker's concern.

    Raises:
        FormatError: a relocation is damaged or of a type that x86-64 kernel
            objects do not have.
    """
    parts = [elf.contents(index) for index in layout.order.tolist()]
    image = np.concatenate([np.zeros(0, dtype=np.uint8), *parts])
    ends = np.cumsum([part.size for part in parts], dtype=np.int64)
    starts = ends - np.array([part.size for part in parts], dtype=np.int64)
    place = np.full(len(elf.headers), -1, dtype=np.int64)
    place[layout.order] = starts
    _apply(elf, _relocations(elf, raw, place), image, place, layout)
    return {
        index: image[start:end]
        for index, start, end in zip(
            layout.order.tolist(), starts.tolist(), ends.tolist(), strict=True
        )
    }


def padding(elf: ElfFile, index: int) -> int:
    """Return how many bytes lie between a table's section and the next file's."""
    stride = _STRIDES.get(elf.names[index], 1)
    return -elf.shdrs[index].size % stride


def _laid_out(elf: ElfFile) -> npt.NDArray[np.bool_]:
    annotation = np.array([n.startswith(".discard.") for n in elf.names], dtype=bool)
    laid_out = ((elf.headers["flags"] & SHF_ALLOC) != 0) | annotation
    laid_out &= elf.headers["type"] != SHT_RELA
    laid_out[list(elf.firsts)] = False
    return np.asarray(laid_out)


def _groups(
    elf: ElfFile, raw: RawSymbols, rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Number what stays apart; tables of one name in several files do not."""
    if len(elf.firsts) == 1:
        return np.arange(len(rows), dtype=np.int64)
    table = (elf.headers["flags"] & SHF_EXECINSTR) == 0
    table &= elf.headers["type"] != SHT_NOBITS
    inside = (raw.section < SHN_LORESERVE) & (raw.kind != STT_SECTION)
    table[raw.section[inside]] = False
    numbers: dict[str | int, int] = {}
    keys = (
        elf.names[row] if together else row
        for row, together in zip(rows.tolist(), table[rows].tolist(), strict=True)
    )
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


def _addresses(
    elf: ElfFile, order: npt.NDArray[np.int64], group: npt.NDArray[np.int64]
) -> list[int]:
    headers = elf.headers[order]
    starts_group = np.append(True, group[1:] != group[:-1]).tolist()
    # where there are many sections, what is as large as their zone stays small
    few = len(elf.firsts) == 1 and len(order) < 0x1000
    gap = 0x10000 if few else 0x100
    address = SECTION_ZONE
    addresses: list[int] = []
    for index, size, align, first in zip(
        order.tolist(),
        headers["size"].tolist(),
        headers["align"].tolist(),
        starts_group,
        strict=False,
    ):
        if align & (align - 1) or align > MAX_ALIGN:
            raise FormatError(
                f"{elf.name}: section {elf.names[index]} is aligned to {align:#x}"
            )
        if first:
            step = max(align, gap)
            address = -(-(address + gap * bool(addresses)) // step) * step
        addresses.append(address)
        address += size + padding(elf, index)
        if address + gap > EXTERNAL_ZONE:
            raise FormatError(
                f"{elf.name}: section {elf.names[index]} of {size:#x} bytes does "
                "not fit into the kernel's 2 GB"
            )
    return addresses


def _symbol_addresses(
    elf: ElfFile, raw: RawSymbols, section: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    address = raw.records["value"].astype(np.uint64)
    defined = (raw.section > 0) & (raw.section < SHN_LORESERVE)
    address[defined] += section[raw.section[defined]]
    rows = np.flatnonzero(raw.external)
    slot = np.arange(len(rows), dtype=np.uint64)
    if len(elf.firsts) > 1:
        numbers: dict[str, int] = {}
        names = raw.names.take(rows).column().tolist()
        slot = np.array([numbers.setdefault(n, len(numbers)) for n in names], np.uint64)
    if EXTERNAL_ZONE + EXTERNAL_SLOT * len(rows) > ZONE_END:
        raise FormatError(f"{elf.name}: {len(rows)} undefined symbols")
    address[rows] = np.uint64(EXTERNAL_ZONE) + slot * np.uint64(EXTERNAL_SLOT)
    return address


class _Relocations(Struct, frozen=True):
    """All relocations that count: the section that each is in and patches."""

    source: npt.NDArray[np.int64]
    target: npt.NDArray[np.int64]
    offset: npt.NDArray[np.uint64]
    kind: npt.NDArray[np.uint32]
    symbol: npt.NDArray[np.int64]
    addend: npt.NDArray[np.uint64]


def _relocations(
    elf: ElfFile, raw: RawSymbols, place: npt.NDArray[np.int64]
) -> _Relocations:
    headers = elf.headers
    rela = np.flatnonzero(headers["type"] == SHT_RELA)
    patches = headers["info"][rela].astype(np.int64)
    known = patches < len(headers)
    rela, patches = rela[known], patches[known]
    wanted = (place[patches] >= 0) & (headers["type"][patches] != SHT_NOBITS)
    rela, patches = rela[wanted], patches[wanted]
    parts = [elf.records(index, RELA) for index in rela.tolist()]
    records = joined(parts, RELA)
    counts = [len(part) for part in parts]
    tables = [_table(elf, raw.first, index) for index in rela.tolist()]
    return _Relocations(
        source=np.repeat(rela, counts),
        target=np.repeat(patches, counts),
        offset=records["offset"].astype(np.uint64),
        kind=records["type"].astype(np.uint32),
        symbol=records["symbol"] + np.repeat(np.array(tables, np.int64), counts),
        addend=records["addend"].astype(np.uint64),
    )


def _table(elf: ElfFile, first: Mapping[int, int], index: int) -> int:
    """Return the row at which the symbols of relocation section ``index`` begin."""
    link = elf.shdrs[index].link
    if link not in first:
        raise FormatError(
            f"{elf.name}: section {elf.names[index]} refers to symbol table {link}, "
            f"expected {' or '.join(map(str, first))}"
        )
    return first[link]


def _apply(
    elf: ElfFile,
    relocations: _Relocations,
    image: Bytes,
    place: npt.NDArray[np.int64],
    layout: Layout,
) -> None:
    size = _SIZES[np.minimum(relocations.kind, _UNKNOWN)]
    _require_sane(elf, relocations, size, layout)
    target = relocations.target
    value = layout.symbol[relocations.symbol] + relocations.addend
    relative = np.isin(relocations.kind, _RELATIVE)
    value -= np.where(
        relative, layout.section[target] + relocations.offset, np.uint64(0)
    )
    where = place[target] + relocations.offset.astype(np.int64)
    for width in (4, 8):
        rows = np.flatnonzero(size == width)
        if len(rows):  # a field may start at any byte
            field = np.dtype(f"<u{width}")
            fields: npt.NDArray[Any] = np.ndarray(
                len(image) - width + 1, field, image, strides=(1,)
            )
            fields[where[rows]] = value[rows].astype(field)


def _require_sane(
    elf: ElfFile,
    relocations: _Relocations,
    size: npt.NDArray[np.uint8],
    layout: Layout,
) -> None:
    def first(bad: npt.NDArray[np.bool_]) -> int:
        return int(np.flatnonzero(bad)[0])

    def where(row: int) -> str:
        return f"{elf.name}: {elf.names[relocations.source[row]]}"

    if (bad := size == _UNKNOWN).any():
        row = first(bad)
        name = relocation_name(int(relocations.kind[row]))
        raise FormatError(
            f"{where(row)} has {name}, which no x86-64 kernel object should have"
        )
    if (bad := relocations.symbol >= len(layout.symbol)).any():
        row = first(bad)
        raise FormatError(
            f"{where(row)} refers to symbol {relocations.symbol[row]}, "
            f"the file has {len(layout.symbol)}"
        )
    room = elf.headers["size"][relocations.target]
    if (bad := (relocations.offset > room) | (room - relocations.offset < size)).any():
        row = first(bad)
        raise FormatError(
            f"{where(row)} patches offset {int(relocations.offset[row]):#x}, "
            f"the section has {int(room[row]):#x} bytes"
        )
