"""Assemble: a linked ELF file made of sections and symbols, in memory.

The inverse of :mod:`harness.elf.load`, as far as a part of a kernel needs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from msgspec import Struct

from harness.elf.file import (
    EHDR,
    EM_X86_64,
    ET_EXEC,
    SHDR,
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHT_SYMTAB,
    SYM,
)

SHT_PROGBITS, SHT_STRTAB = 1, 3


class Piece(Struct, frozen=True):
    """A section: some bytes at an address; debug information is not in memory."""

    name: str
    address: int
    data: bytes
    executable: bool = False
    entsize: int = 0
    alloc: bool = True


class Name(Struct, frozen=True):
    """A symbol. ``piece`` counts pieces; -1 says that another object defines it."""

    name: str
    address: int
    size: int
    kind: int
    binding: int
    piece: int


def assemble(pieces: Sequence[Piece], names: Sequence[Name]) -> bytes:
    """Return an ELF executable of ``pieces`` (sections 1, 2, ...) and ``names``."""
    strings, offsets = _strings(name.name for name in names)
    symbols = np.zeros(len(names) + 1, SYM)
    for row, name, at in zip(symbols[1:], names, offsets, strict=True):
        row["name"], row["value"], row["size"] = at, name.address, name.size
        row["info"], row["section"] = name.binding << 4 | name.kind, name.piece + 1
    section_names, name_offsets = _strings(
        [*(piece.name for piece in pieces), ".symtab", ".strtab", ".shstrtab"]
    )
    contents = [*(p.data for p in pieces), symbols.tobytes(), strings, section_names]
    headers = np.zeros(len(contents) + 1, SHDR)
    headers["align"] = 1
    body = bytearray(EHDR.itemsize)
    for header, content, at in zip(headers[1:], contents, name_offsets, strict=True):
        header["name"], header["offset"], header["size"] = at, len(body), len(content)
        header["type"] = SHT_PROGBITS
        body += content + bytes(-len(content) % 8)
    for header, piece in zip(headers[1:], pieces, strict=False):
        header["address"], header["entsize"] = piece.address, piece.entsize
        header["flags"] = SHF_ALLOC if piece.alloc else 0
        header["flags"] |= SHF_EXECINSTR if piece.executable else 0
    symtab = len(pieces) + 1
    headers[symtab]["type"], headers[symtab]["link"] = SHT_SYMTAB, symtab + 1
    headers[symtab]["entsize"] = SYM.itemsize
    headers[symtab + 1 :]["type"] = SHT_STRTAB
    body[: EHDR.itemsize] = _ehdr(len(body), len(headers))
    return bytes(body) + headers.tobytes()


def _ehdr(section_headers: int, count: int) -> bytes:
    header = np.zeros(1, EHDR)
    header["magic"], header["class"], header["data"] = b"\x7fELF", 2, 1
    header["ident"] = bytes([1]) + bytes(9)  # EI_VERSION: others than us look at it
    header["type"], header["machine"], header["version"] = ET_EXEC, EM_X86_64, 1
    header["shoff"], header["ehsize"] = section_headers, EHDR.itemsize
    header["shentsize"], header["shnum"] = SHDR.itemsize, count
    header["shstrndx"] = count - 1
    return header.tobytes()


def _strings(texts: Iterable[str]) -> tuple[bytes, list[int]]:
    """Return a string table and the offset of each of ``texts`` in it."""
    table, offsets = bytearray(1), []
    for text in texts:
        offsets.append(len(table))
        table += text.encode("latin-1") + b"\0"
    return bytes(table), offsets
