"""Elfwriter: ELF objects and kernels made in memory, good ones and bad ones."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.elf.load import parse
from harness.elf.orc import OrcEntry, OrcFormat, OrcReg, OrcType
from harness.elf.program import Program

ET_REL, ET_EXEC = 1, 2
EM_X86_64, EM_AARCH64 = 62, 183
PROGBITS, SYMTAB, STRTAB, RELA, NOTE, NOBITS = 1, 2, 3, 4, 7, 8
SYMTAB_SHNDX = 18
WRITE, ALLOC, EXEC = 1, 2, 4
LOCAL, GLOBAL, WEAK = 0, 1, 2
NOTYPE, OBJECT, FUNC, SECTION, FILE = 0, 1, 2, 3, 4
R_NONE, R_64, R_PC32, R_PLT32, R_32, R_32S = 0, 1, 2, 4, 10, 11
UNDEF, ABS, LIVEPATCH = 0, 0xFFF1, 0xFF20

ORC_HEADERS = {
    OrcFormat.V3: bytes.fromhex("fe5d32bf581bd63b2ca9a5c65ba5a625eab3fe24"),
    OrcFormat.V4: bytes.fromhex("137c36ad7627c4dd55932176bb0ecdbd5041fc82"),
}


@dataclass
class _Section:
    name: str
    data: bytearray
    type: int = PROGBITS
    flags: int = ALLOC
    address: int = 0
    align: int = 1
    entsize: int = 0
    link: int = 0
    info: int = 0
    size: int = 0
    relocations: list[tuple[int, int, int, int]] = field(
        default_factory=list, init=False
    )


class ElfWriter:
    """Collects sections, symbols and relocations; ``build`` makes the file.

    Section and symbol numbers are those of the file: 0 is the null one.
    """

    def __init__(self, kind: int = ET_REL, machine: int = EM_X86_64) -> None:
        self.kind = kind
        self.machine = machine
        self.sections = [_Section("", bytearray(), type=0, flags=0)]
        self.symbols: list[tuple[str, int, int, int, int, int]] = [("", 0, 0, 0, 0, 0)]

    def section(self, name: str, data: bytes = b"", **attributes: int) -> int:
        """Add a section, return its number."""
        self.sections.append(_Section(name, bytearray(data), **attributes))
        return len(self.sections) - 1

    def symbol(
        self,
        name: str,
        section: int,
        value: int = 0,
        size: int = 0,
        kind: int = FUNC,
        binding: int = GLOBAL,
    ) -> int:
        """Add a symbol, return its number."""
        self.symbols.append((name, section, value, size, kind, binding))
        return len(self.symbols) - 1

    def relocation(
        self, section: int, offset: int, kind: int, symbol: int, addend: int = 0
    ) -> None:
        """Add a relocation of ``section``."""
        self.sections[section].relocations.append((offset, kind, symbol, addend))

    def build(self, symbols: bool = True, *, extended: bool = False) -> bytes:
        """Return the file; without ``symbols`` it is stripped.

        ``extended`` writes the symbols' sections as huge objects do.
        """
        sections = list(self.sections)
        if symbols:
            strings, table = _strings([s[0] for s in self.symbols])
            symtab = len(sections)
            records = b"".join(
                struct.pack(
                    "<IBBHQQ",
                    at,
                    b << 4 | k,
                    0,
                    0xFFFF if extended else where,
                    value,
                    size,
                )
                for at, (_, where, value, size, k, b) in zip(
                    table, self.symbols, strict=True
                )
            )
            sections.append(
                _Section(
                    ".symtab",
                    bytearray(records),
                    SYMTAB,
                    0,
                    link=symtab + 1,
                    entsize=24,
                )
            )
            sections.append(_Section(".strtab", bytearray(strings), STRTAB, 0))
            if extended:
                numbers = struct.pack(
                    f"<{len(self.symbols)}I", *(s[1] for s in self.symbols)
                )
                sections.append(
                    _Section(".symtab_shndx", bytearray(numbers), SYMTAB_SHNDX, 0)
                )
            for index, section in enumerate(self.sections):
                if section.relocations:
                    sections.append(_rela(section, index, symtab))
        names, offsets = _strings([*(s.name for s in sections), ".shstrtab"])
        sections.append(_Section(".shstrtab", bytearray(names), STRTAB, 0))
        return self._assemble(sections, offsets)

    def program(self, name: str = "test.o") -> Program:
        """Return the file as :func:`harness.elf.load.parse` reads it."""
        return parse(self.build(), name, Path(name))

    def _assemble(self, sections: list[_Section], names: Sequence[int]) -> bytes:
        body, headers = bytearray(64), bytearray()
        for name, section in zip(names, sections, strict=True):
            body += bytes(-len(body) % 8)
            headers += struct.pack(
                "<IIQQQQIIQQ",
                name,
                section.type,
                section.flags,
                section.address,
                len(body),
                section.size or len(section.data),
                section.link,
                section.info,
                section.align,
                section.entsize,
            )
            if section.type != NOBITS:
                body += section.data
        body += bytes(-len(body) % 8)
        body[:64] = struct.pack(
            "<4sBBBB8xHHIQQQIHHHHHH",
            b"\x7fELF",
            2,
            1,
            1,
            0,
            self.kind,
            self.machine,
            1,
            0,
            0,
            len(body),
            0,
            64,
            0,
            0,
            64,
            len(sections),
            len(sections) - 1,
        )
        return bytes(body + headers)


# --- what kernels put into them ----------------------------------------------


def call(sp_offset: int = 8, bp_offset: int = 0) -> OrcEntry:
    """An ordinary state: CFA is RSP + ``sp_offset``, RBP saved if given."""
    bp_reg = OrcReg.PREV_SP if bp_offset else OrcReg.UNDEFINED
    return OrcEntry(sp_offset, bp_offset, OrcReg.SP, bp_reg, OrcType.CALL, False)


def regs(sp_offset: int = 0, *, partial: bool = False) -> OrcEntry:
    """A register frame at RSP + ``sp_offset``."""
    kind = OrcType.REGS_PARTIAL if partial else OrcType.REGS
    return OrcEntry(sp_offset, 0, OrcReg.SP, OrcReg.UNDEFINED, kind, True)


UND = OrcEntry(0, 0, 0, 0, OrcType.UNDEFINED, False)
END = OrcEntry(0, 0, 0, 0, OrcType.END_OF_STACK, False)

_V4_CODES = {0: 0, 10: 1, 2: 2, 5: 3, 4: 4, 3: 5, 6: 6, 7: 7, 1: 8, 9: 9, 8: 10}


def orc_bytes(entry: OrcEntry, orc_format: OrcFormat) -> bytes:
    """Return ``entry`` as struct orc_entry of ``orc_format``."""
    sp_reg, bp_reg = entry.sp_reg, entry.bp_reg
    if orc_format is OrcFormat.V4:
        sp_reg, bp_reg = _V4_CODES[sp_reg], _V4_CODES[bp_reg]
    word = sp_reg | bp_reg << 4
    if orc_format in (OrcFormat.V3, OrcFormat.V4):
        word |= entry.type << 8 | entry.signal << 11
    else:
        word |= max(entry.type - OrcType.CALL, 0) << 8
        end = entry.type == OrcType.END_OF_STACK
        if orc_format is OrcFormat.V1B:
            word |= end << 10
        elif orc_format is OrcFormat.V2:
            word |= entry.signal << 10 | end << 11
    return struct.pack("<hhH", entry.sp_offset, entry.bp_offset, word)


def add_orc(
    writer: ElfWriter,
    text: int,
    entries: Iterable[tuple[int, OrcEntry]],
    orc_format: OrcFormat = OrcFormat.V3,
    *,
    header: bytes | None = None,
    address: int = 0,
) -> None:
    """Add the ORC sections for (offset in section ``text``, entry) rows.

    In an object the addresses are relocations; in a kernel (ET_EXEC) the tables
    lie at ``address`` and the offsets are resolved. ``header`` overrides the hash;
    an empty one leaves the section out.
    """
    rows = list(entries)
    table = b"".join(orc_bytes(entry, orc_format) for _, entry in rows)
    linked = writer.kind == ET_EXEC
    base = writer.sections[text].address
    ips = b"".join(
        struct.pack("<i", base + offset - (address + 4 * i) if linked else 0)
        for i, (offset, _) in enumerate(rows)
    )
    section = writer.section(".orc_unwind_ip", ips, address=address)
    if not linked:
        symbol = writer.symbol("", text, kind=SECTION, binding=LOCAL)
        for i, (offset, _) in enumerate(rows):
            writer.relocation(section, 4 * i, R_PC32, symbol, offset)
    after = address + len(ips) if linked else 0
    writer.section(".orc_unwind", table, address=after)
    digest = ORC_HEADERS.get(orc_format) if header is None else header
    if digest:
        where = after + len(table) if linked else 0
        writer.section(".orc_header", digest, address=where)


@dataclass(frozen=True)
class Alternative:
    """One struct alt_instr: offsets in .text and .altinstr_replacement."""

    offset: int
    replacement: int
    cpuid: int
    instrlen: int
    replacementlen: int
    flags: int = 0
    padlen: int = 0

    def pack(self, size: int) -> bytes:
        """Return it as ``size`` bytes, the two offsets still 0."""
        lengths = bytes((self.instrlen, self.replacementlen))
        if size == 14:
            return struct.pack("<iiHH", 0, 0, self.cpuid, self.flags) + lengths
        if size == 13:
            return (
                struct.pack("<iiH", 0, 0, self.cpuid) + lengths + bytes((self.padlen,))
            )
        return struct.pack("<iiH", 0, 0, self.cpuid | self.flags << 15) + lengths


def add_alternatives(
    writer: ElfWriter,
    text: int,
    replacements: bytes,
    entries: Iterable[Alternative],
    size: int = 14,
    *,
    entsize: int = 0,
) -> int:
    """Add .altinstr_replacement and .altinstructions of an object, relocated."""
    code = writer.section(".altinstr_replacement", replacements, flags=ALLOC | EXEC)
    rows = list(entries)
    data = b"".join(row.pack(size) for row in rows)
    table = writer.section(".altinstructions", data, entsize=entsize)
    original = writer.symbol("", text, kind=SECTION, binding=LOCAL)
    replacement = writer.symbol("", code, kind=SECTION, binding=LOCAL)
    for i, row in enumerate(rows):
        writer.relocation(table, i * size, R_PC32, original, row.offset)
        writer.relocation(table, i * size + 4, R_PC32, replacement, row.replacement)
    return table


def _rela(section: _Section, index: int, symtab: int) -> _Section:
    data = b"".join(
        struct.pack("<QIIq", offset, kind, symbol, addend)
        for offset, kind, symbol, addend in section.relocations
    )
    name = f".rela{section.name}"
    return _Section(name, bytearray(data), RELA, 0, link=symtab, info=index, entsize=24)


def _strings(names: Iterable[str]) -> tuple[bytes, list[int]]:
    table, offsets = bytearray(b"\0"), []
    for name in names:
        offsets.append(len(table) if name else 0)
        if name:
            table += name.encode() + b"\0"
    return bytes(table), offsets
