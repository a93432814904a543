"""Program: an object's sections, bytes and symbols at their addresses.

Everything is an address into one space, whatever the file was (:mod:`harness.elf.load`).
"""

from __future__ import annotations

import bisect
import functools
from pathlib import Path

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

from harness.elf.file import Bytes
from harness.elf.symbol import Symbols
from harness.errors import FormatError
from harness.finding import Location

KERNEL_MAP = (
    0xFFFF_FFFF_8000_0000  # __START_KERNEL_map, below which KASLR moves nothing
)


class Section(Struct, frozen=True):
    """A section that is in memory, or one of objtool's annotations.

    Attributes:
        name: as in the file (``.text``).
        index: its number in the file.
        address: of its first byte.
        size: bytes in memory.
        data: u8[size], relocated; no bytes for SHT_NOBITS.
        executable: it holds code. A section of a linked kernel that is writable
            too is split into its code and its data.
        alloc: it is in memory; false for ``.discard.*`` annotations only.
        entsize: bytes per entry where the file tells, else 0.
        object: the file that it is from, of several; empty if all are from one.
    """

    name: str
    index: int
    address: int
    size: int
    data: Bytes
    executable: bool
    alloc: bool
    entsize: int
    object: str = ""

    @property
    def end(self) -> int:
        """The address behind its last byte."""
        return self.address + self.size


class Program(Struct, frozen=True, dict=True):
    """A file's code and data at their addresses.

    Attributes:
        name: what people call it (``vmlinux``, ``crc7.ko``).
        path: where it was read from.
        relocatable: it is not linked: its addresses are ours.
        sections: by address.
        symbols: by address; external ones included.
        externals: address of the slot -> name, for symbols of other objects.
        release: what ``uname -r`` would say, or empty if the file does not tell.
        notes: what a reader should know about the file, as short sentences.
        guessed: its symbols are from kallsyms, which tells neither what is a function
            nor how long it is.
        slide: how far it lies behind where it was linked to.
    """

    name: str
    path: Path
    relocatable: bool
    sections: tuple[Section, ...]
    symbols: Symbols
    externals: dict[int, str]
    release: str
    notes: tuple[str, ...]
    guessed: bool = False
    slide: int = 0

    def slid(self, by: int) -> Program:
        """Return the kernel where KASLR puts it, ``by`` bytes behind its address.

        Per-CPU data that are linked to 0 stay. Contents are the image's: the pointers
        in them lead to where it was linked to.
        """
        if not by:
            return self
        address = self.symbols.address.copy()
        address[address >= np.uint64(KERNEL_MAP)] += np.uint64(by % (1 << 64))
        sections = tuple(
            replace(section, address=section.address + by)
            if section.address >= KERNEL_MAP
            else section
            for section in self.sections
        )
        symbols = replace(self.symbols, address=address)
        return replace(self, sections=sections, symbols=symbols, slide=self.slide + by)

    @functools.cached_property
    def executable(self) -> tuple[Section, ...]:
        """The sections that hold code, by address."""
        return tuple(s for s in self.sections if s.executable and s.data.size)

    def section(self, name: str) -> Section | None:
        """Return the first section called ``name``, or None.

        Raises:
            FormatError: of files that were joined, each has another one.
        """
        found = self.named(name)
        apart = {s.data.tobytes() for s in found if s.object} if len(found) > 1 else ()
        if len(apart) > 1:
            raise FormatError(f"{self.name}: {len(found)} sections are called {name}")
        return found[0] if found else None

    def named(self, name: str) -> tuple[Section, ...]:
        """Return all sections called ``name``, by address."""
        return self._by_name.get(name, ())

    @functools.cached_property
    def _by_name(self) -> dict[str, tuple[Section, ...]]:
        """The sections of each name, by address."""
        found: dict[str, list[Section]] = {}
        for section in self.sections:
            found.setdefault(section.name, []).append(section)
        return {name: tuple(sections) for name, sections in found.items()}

    def section_at(self, address: int) -> Section | None:
        """Return the section that ``address`` lies in, or None."""
        place = bisect.bisect_right(self.sections, address, key=lambda s: s.address)
        if not place or address >= self.sections[place - 1].end:
            return None
        return self.sections[place - 1]

    def sections_at(self, addresses: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """Return for each address its section's place in ``sections``, -1 if none."""
        starts, ends = self._bounds
        index = np.searchsorted(starts, addresses, "right") - 1
        found = index >= 0
        found[found] = addresses[found] < ends[index[found]]
        return np.where(found, index, -1)

    @functools.cached_property
    def _bounds(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """Where each section begins and ends."""
        starts = [section.address for section in self.sections]
        ends = [section.end for section in self.sections]
        return np.array(starts, np.uint64), np.array(ends, np.uint64)

    def objects_at(self, addresses: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """Tell by numbers which of ``addresses`` are code of one of several files."""
        names = [section.object for section in self.sections]
        numbers = {name: number for number, name in enumerate(sorted({*names}))}
        objects = np.array([*map(numbers.__getitem__, names), -1], np.int64)
        return np.asarray(objects[self.sections_at(addresses)])

    def in_code(self, addresses: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Tell which of ``addresses`` lie in a section that holds code."""
        return np.asarray(self._code[self.sections_at(addresses)])

    @functools.cached_property
    def _code(self) -> npt.NDArray[np.bool_]:
        """Which sections hold code; at -1 none does."""
        return np.array([s.executable for s in self.sections] + [False], dtype=bool)

    def location(self, address: int) -> Location:
        """Name the place ``address``: symbol, or section where no symbol is near."""
        # The end of a section is where its table ends: the last symbol names it.
        section = self.section_at(address) or self.section_at(address - 1)
        if section is None:
            name = self.externals.get(address, f"{address:#x}")
            return Location(self.name, name, 0, address)
        shown = address - section.address if self.relocatable else address
        owner = section.object or self.name
        index = self.symbols.index(address)
        if index < 0 or self.symbols.section[index] != section.index:
            within = address - section.address
            return Location(owner, section.name, within, shown)
        offset = address - int(self.symbols.address[index])
        return Location(owner, self.symbols.name[index], offset, shown)

    def read(self, address: int, size: int) -> Bytes:
        """Return ``size`` bytes at ``address``; .bss reads as zeros.

        Raises:
            FormatError: they do not all lie in one section.
        """
        section = self.section_at(address)
        if section is None or address + size > section.end:
            raise FormatError(
                f"{self.name}: no section holds {size} bytes at {address:#x}"
            )
        if not section.data.size:
            return np.zeros(size, dtype=np.uint8)
        start = address - section.address
        return section.data[start : start + size]
