"""Layout: where the sections and externals of an unlinked object are put.

An object has no addresses yet, so that section offsets of different sections
would collide. We link it ourselves, roughly as the module loader does: sections
go to a low zone with space between them, so that a branch that leaves its section
lands in none; every symbol of other objects gets a slot in a far zone. Both zones
are in the top 2 GB, where the kernel's code model puts everything.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.elf.file import (
    RELA,
    SHF_ALLOC,
    SHT_NOBITS,
    SHT_RELA,
    Bytes,
    ElfFile,
    relocation_name,
)
from harness.elf.symbol import SHN_LORESERVE, RawSymbols
from harness.errors import FormatError

SECTION_ZONE = 0xFFFF_FFFF_8100_0000
EXTERNAL_ZONE = 0xFFFF_FFFF_E000_0000
EXTERNAL_SLOT = 16
ZONE_END = 1 << 64
MAX_ALIGN = 1 << 24

# How many bytes R_X86_64_NONE, 64, PC32, PLT32, 32, 32S and PC64 write. The linker
# turns a GOTPCREL load into a plain one with the same field (9, 41, 42), because
# a kernel has no global offset table.
_SIZE = {0: 0, 1: 8, 2: 4, 4: 4, 10: 4, 11: 4, 24: 8, 9: 4, 41: 4, 42: 4}
_RELATIVE = (2, 4, 24, 9, 41, 42)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything of an object is.

    Attributes:
        section: u64[sections], 0 for those that are not laid out.
        laid_out: bool[sections].
        symbol: u64[symbols], in the order of the symbol table.
    """

    section: npt.NDArray[np.uint64]
    laid_out: npt.NDArray[np.bool_]
    symbol: npt.NDArray[np.uint64]


def lay_out(elf: ElfFile, raw: RawSymbols) -> Layout:
    """Give sections and symbols of the object ``elf`` their addresses.

    Raises:
        FormatError: sizes or alignments are absurd.
    """
    headers = elf.headers
    annotation = np.array([n.startswith(".discard.") for n in elf.names], dtype=bool)
    laid_out = ((headers["flags"] & SHF_ALLOC) != 0) | annotation
    laid_out &= headers["type"] != SHT_RELA
    laid_out[0] = False
    section = np.zeros(len(headers), dtype=np.uint64)
    gap = 0x10000 if laid_out.sum() < 0x1000 else 0x100
    address = SECTION_ZONE
    for index in np.flatnonzero(laid_out).tolist():
        size, align = int(headers[index]["size"]), int(headers[index]["align"])
        if align & (align - 1) or align > MAX_ALIGN:
            raise FormatError(
                f"{elf.name}: section {elf.names[index]} is aligned to {align:#x}"
            )
        step = max(align, gap)
        address = -(-address // step) * step
        section[index] = address
        address += size + gap
        if address > EXTERNAL_ZONE:
            raise FormatError(
                f"{elf.name}: section {elf.names[index]} of {size:#x} bytes does "
                "not fit into the kernel's 2 GB"
            )
    return Layout(section, laid_out, _symbol_addresses(elf, raw, section))


def relocated(elf: ElfFile, raw: RawSymbols, layout: Layout) -> dict[int, Bytes]:
    """Return the contents of the laid-out sections, relocations applied.

    The relocations of a livepatch (``.klp.rela.*``) count among them. Results are truncated to the field as a C cast would: whether the final
    addresses fit is the linker's concern.

    Raises:
        FormatError: a relocation is damaged or of a type that x86-64 kernel
            objects do not have.
    """
    contents = {
        index: elf.contents(index) for index in np.flatnonzero(layout.laid_out).tolist()
    }
    for index in np.flatnonzero(elf.headers["type"] == SHT_RELA).tolist():
        target = int(elf.headers[index]["info"])
        if target not in contents or elf.headers[target]["type"] == SHT_NOBITS:
            continue
        if int(elf.headers[index]["link"]) != raw.index:
            raise FormatError(
                f"{elf.name}: section {elf.names[index]} refers to symbol table "
                f"{elf.headers[index]['link']}, expected {raw.index}"
            )
        if not contents[target].flags.writeable:
            contents[target] = contents[target].copy()
        _apply(elf, index, contents[target], int(layout.section[target]), layout)
    return contents


def _symbol_addresses(
    elf: ElfFile, raw: RawSymbols, section: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    address = raw.records["value"].astype(np.uint64)
    defined = (raw.section > 0) & (raw.section < SHN_LORESERVE)
    address[defined] += section[raw.section[defined]]
    external = raw.external
    slots = np.arange(int(external.sum()), dtype=np.uint64) * np.uint64(EXTERNAL_SLOT)
    if EXTERNAL_ZONE + EXTERNAL_SLOT * len(slots) > ZONE_END:
        raise FormatError(f"{elf.name}: {len(slots)} undefined symbols")
    address[external] = np.uint64(EXTERNAL_ZONE) + slots
    return address


def _apply(
    elf: ElfFile, index: int, contents: Bytes, base: int, layout: Layout
) -> None:
    relocations = elf.records(index, RELA)
    where = elf.names[index]
    kinds = np.unique(relocations["type"]).tolist()
    if unknown := [kind for kind in kinds if kind not in _SIZE]:
        raise FormatError(
            f"{elf.name}: {where} has {relocation_name(unknown[0])}, which no "
            "x86-64 kernel object should have"
        )
    if relocations.size and relocations["symbol"].max() >= len(layout.symbol):
        raise FormatError(
            f"{elf.name}: {where} refers to symbol {relocations['symbol'].max()}, "
            f"the file has {len(layout.symbol)}"
        )
    for kind in kinds:
        size = _SIZE[kind]
        some = relocations[relocations["type"] == kind]
        offset = some["offset"].astype(np.uint64)
        if (offset > np.uint64(max(len(contents) - size, 0))).any() or (
            size > len(contents)
        ):
            raise FormatError(
                f"{elf.name}: {where} patches offset {int(offset.max()):#x}, "
                f"the section has {len(contents):#x} bytes"
            )
        value = layout.symbol[some["symbol"]] + some["addend"].astype(np.uint64)
        if kind in _RELATIVE:
            value -= np.uint64(base) + offset
        field = value.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :size]
        contents[offset[:, None].astype(np.int64) + np.arange(size)] = field
