"""File: an ELF file as header columns and byte ranges, nothing decoded.

The only door to elftools, which knows the names of machines, file types and
relocations; it is imported when one of them is to be named. The headers themselves
are read as numpy columns, because a kernel object can have tens of thousands of
sections; contents stay where they are. Debug information, most of a production
kernel, is refused: nobody's verdict may depend on it (``digest.py``).
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from harness.elf.compression import decompress, recognise
from harness.errors import FormatError

if TYPE_CHECKING:
    from elftools.dwarf.dwarfinfo import DWARFInfo as DWARFInfo
    from elftools.dwarf.lineprogram import LineProgram as LineProgram

Bytes = npt.NDArray[np.uint8]
Records = npt.NDArray[np.void]

MAPPED_FROM = 4 << 20  # bytes; of larger files much is never looked at

ET_REL, ET_EXEC, ET_DYN = 1, 2, 3
EM_X86_64 = 62
SHT_SYMTAB, SHT_RELA, SHT_NOBITS, SHT_SYMTAB_SHNDX = 2, 4, 8, 18
SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR, SHF_COMPRESSED = 0x1, 0x2, 0x4, 0x800
SHN_XINDEX = 0xFFFF
# Small, and evidence about frames: the one that verdicts may read.
DEBUG_FRAME = (".debug_frame", ".rela.debug_frame")

# The records of elf(5), ELFCLASS64, least significant byte first.
EHDR = np.dtype(
    [
        ("magic", "S4"),
        ("class", "u1"),
        ("data", "u1"),
        ("ident", "V10"),
        ("type", "<u2"),
        ("machine", "<u2"),
        ("version", "<u4"),
        ("entry", "<u8"),
        ("phoff", "<u8"),
        ("shoff", "<u8"),
        ("flags", "<u4"),
        ("ehsize", "<u2"),
        ("phentsize", "<u2"),
        ("phnum", "<u2"),
        ("shentsize", "<u2"),
        ("shnum", "<u2"),
        ("shstrndx", "<u2"),
    ]
)
SHDR = np.dtype(
    [
        ("name", "<u4"),
        ("type", "<u4"),
        ("flags", "<u8"),
        ("address", "<u8"),
        ("offset", "<u8"),
        ("size", "<u8"),
        ("link", "<u4"),
        ("info", "<u4"),
        ("align", "<u8"),
        ("entsize", "<u8"),
    ]
)


class Shdr(NamedTuple):
    """One record of :data:`SHDR`."""

    name: int
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entsize: int


SYM = np.dtype(
    [
        ("name", "<u4"),
        ("info", "u1"),
        ("other", "u1"),
        ("section", "<u2"),
        ("value", "<u8"),
        ("size", "<u8"),
    ]
)
RELA = np.dtype(
    [("offset", "<u8"), ("type", "<u4"), ("symbol", "<u4"), ("addend", "<i8")]
)


class ElfFile(Struct, frozen=True, dict=True):
    """A whole x86-64 ELF file.

    Attributes:
        name: what messages call it.
        data: every byte, u8[size].
        type: ET_REL, ET_EXEC or ET_DYN.
        headers: one record of Elf64_Shdr per section, index 0 included.
        names: the sections' names, parallel to ``headers``.
        end: where the ELF file ends within ``data``; a signature may follow.
        members: the files that were joined into this one (``join.py``), or itself.
        firsts: the first section of each of them.
    """

    name: str
    data: Bytes
    type: int
    headers: Records
    names: tuple[str, ...]
    end: int
    members: tuple[str, ...] = ()
    firsts: tuple[int, ...] = (0,)

    def member(self, index: int) -> tuple[int, int]:
        """Return the sections [first, last) of the file that ``index`` came from."""
        place = bisect.bisect_right(self.firsts, index)
        later = (*self.firsts, len(self.headers))
        return self.firsts[place - 1], later[place]

    @property
    def debug(self) -> npt.NDArray[np.bool_]:
        """bool[sections], which hold debug information that no verdict reads."""
        unloaded = (self.headers["flags"] & SHF_ALLOC) == 0
        named = np.array([_is_debug(name) for name in self.names], dtype=bool)
        return np.asarray(unloaded & named)

    def contents(self, index: int) -> Bytes:
        """Return the bytes of section ``index`` (none for SHT_NOBITS).

        It must be none of ``debug``.

        Raises:
            FormatError: they lie beyond the end of the file.
        """
        header = self.shdrs[index]
        assert header.flags & SHF_ALLOC or not _is_debug(self.names[index])
        return _contents(self.data, header, self.name, self.names[index])

    @functools.cached_property
    def shdrs(self) -> list[Shdr]:
        """The headers as values, for those who ask for them one by one."""
        return list(map(Shdr._make, self.headers.tolist()))

    def records(self, index: int, layout: np.dtype[np.void]) -> Records:
        """Return section ``index`` as an array of ``layout``.

        Raises:
            FormatError: its size is no multiple of the record's.
        """
        contents = self.contents(index)
        if contents.size % layout.itemsize:
            raise FormatError(
                f"{self.name}: section {self.names[index]} has {contents.size} "
                f"bytes, expected a multiple of {layout.itemsize}"
            )
        return np.frombuffer(contents, dtype=layout)


def read_file(path: Path) -> Bytes:
    """Return the bytes of ``path``, unpacked if it is a packed file.

    Raises:
        FormatError: it cannot be read, is empty, or its packing is damaged.
        InfraError: the program that unpacks it is missing.
    """
    data = map_file(path)
    if (compression := recognise(data[:16].tobytes())) is None:
        return data
    unpacked = decompress(data.tobytes(), compression, str(path))
    return np.frombuffer(unpacked, dtype=np.uint8)


def map_file(path: Path) -> Bytes:
    """Return the bytes of ``path``; large files are read as they are touched.

    Raises:
        FormatError: it cannot be read, or is empty.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size >= MAPPED_FROM:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                data = np.frombuffer(mapped, dtype=np.uint8)
            else:
                file.seek(0)
                data = np.frombuffer(file.read(), dtype=np.uint8)
    except OSError as exc:
        raise FormatError(f"cannot read {path}: {exc.strerror}") from exc
    if not data.size:
        raise FormatError(f"{path} is empty")
    return data


def parse_elf(data: Bytes, name: str) -> ElfFile:
    """Read the headers of the ELF file ``data``.

    Raises:
        FormatError: it is not one, is truncated, or is not for x86-64.
    """
    header = _ehdr(data, name)
    headers = _section_headers(data, header, name)
    strings = int(header["shstrndx"])
    if strings == SHN_XINDEX and len(headers):
        strings = int(headers[0]["link"])
    if strings >= len(headers):
        raise FormatError(
            f"{name}: names of sections are in section {strings}, "
            f"the file has {len(headers)}"
        )
    end = int(header["shoff"]) + headers.nbytes
    kind = int(header["type"])
    table = Shdr._make(headers[strings].item())
    text = _contents(data, table, name, f"#{strings}")
    names = c_strings(text, headers["name"])
    return ElfFile(name, data, kind, headers, names, end)


def _contents(data: Bytes, header: Shdr, file: str, section: str) -> Bytes:
    if header.type == SHT_NOBITS:
        return data[:0]
    end = header.offset + header.size
    if end > len(data):
        raise FormatError(
            f"{file}: truncated: section {section} ends at {end:#x}, "
            f"the file at {len(data):#x}"
        )
    return data[header.offset : end]


def c_strings(table: Bytes, offsets: npt.NDArray[np.integer]) -> tuple[str, ...]:
    """Return the NUL-terminated string at each of ``offsets`` in ``table``.

    An offset beyond the table gives an empty string.
    """
    text = table.tobytes().decode("latin-1")
    zeros = np.append(np.flatnonzero(table == 0), len(text))
    starts = np.minimum(offsets.astype(np.int64), len(text))
    ends = zeros[np.minimum(np.searchsorted(zeros, starts), len(zeros) - 1)]
    return tuple(
        text[start:end]
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
    )


@contextlib.contextmanager
def debug_lines(path: Path) -> Iterator[DWARFInfo | None]:
    """Yield the debug information of the linked file ``path``; None if it has none."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    with path.open("rb") as file:
        try:
            elf = ELFFile(file)
            lines = elf.get_section_by_name(".debug_line") is not None
            linked = elf.header["e_type"] != "ET_REL"
        except ELFError:  # packed, or cut off behind what a verdict reads
            lines = linked = False
        # what is linked is relocated, whatever tables of it were left in
        yield elf.get_dwarf_info(False) if lines and linked else None


def relocation_name(number: int) -> str:
    """Name an x86-64 relocation type, as ``R_X86_64_PLT32``."""
    return _name("ENUM_RELOC_TYPE_x64", number)


def _is_debug(name: str) -> bool:
    return name.startswith((".debug_", ".rela.debug_")) and name not in DEBUG_FRAME


def _ehdr(data: Bytes, name: str) -> np.void:
    if bytes(data[:4]) != b"\x7fELF":
        seen = bytes(data[:4]).hex(" ") or "nothing"
        raise FormatError(
            f"{name}: not an ELF file: starts with {seen}, expected 7f 45 4c 46",
            hint="give a vmlinux, bzImage, .o or .ko, packed or not",
        )
    if data.size < EHDR.itemsize:
        raise FormatError(
            f"{name}: truncated: {data.size} bytes, an ELF header has {EHDR.itemsize}"
        )
    header: np.void = np.frombuffer(data[: EHDR.itemsize], dtype=EHDR)[0]
    if (header["class"], header["data"]) != (2, 1):
        raise FormatError(
            f"{name}: ELF class {header['class']}, byte order {header['data']}; "
            "expected a 64-bit little-endian file"
        )
    if header["machine"] != EM_X86_64:
        machine = _name("ENUM_E_MACHINE", int(header["machine"]))
        raise FormatError(f"{name}: made for {machine}, expected EM_X86_64")
    if header["type"] not in (ET_REL, ET_EXEC, ET_DYN):
        kind = _name("ENUM_E_TYPE", int(header["type"]))
        raise FormatError(f"{name}: {kind} file, expected an object or a program")
    return header


def _section_headers(data: Bytes, header: np.void, name: str) -> Records:
    start, count = int(header["shoff"]), int(header["shnum"])
    if not start:
        raise FormatError(f"{name}: no section headers; stripped beyond use")
    if header["shentsize"] != SHDR.itemsize:
        raise FormatError(
            f"{name}: section headers of {header['shentsize']} bytes, "
            f"expected {SHDR.itemsize}"
        )
    if not count:  # more than 0xff00 sections: the count is in the first header
        count = int(_records_at(data, start, 1, name)[0]["size"])
    return _records_at(data, start, count, name)


def _records_at(data: Bytes, start: int, count: int, name: str) -> Records:
    end = start + count * SHDR.itemsize
    if end > data.size:
        raise FormatError(
            f"{name}: truncated: section headers end at {end:#x}, "
            f"the file at {data.size:#x}"
        )
    return np.frombuffer(data[start:end], dtype=SHDR)


def _name(kind: str, number: int) -> str:
    from elftools.elf import enums

    for name, value in getattr(enums, kind).items():
        if value == number and name.startswith(("EM_", "ET_", "R_X86_64_")):
            return str(name)
    return f"type {number}"
