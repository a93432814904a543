"""Symbol: the names of an object, as columns sorted by address."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from harness.elf.file import (
    SHN_XINDEX,
    SHT_SYMTAB,
    SHT_SYMTAB_SHNDX,
    SYM,
    ElfFile,
    Records,
    c_strings,
)
from harness.errors import FormatError

STT_NOTYPE, STT_OBJECT, STT_FUNC, STT_SECTION, STT_FILE = 0, 1, 2, 3, 4
STB_LOCAL, STB_GLOBAL, STB_WEAK = 0, 1, 2
SHN_UNDEF, SHN_LORESERVE, SHN_LIVEPATCH = 0, 0xFF00, 0xFF20
SHN_ABS, SHN_COMMON = 0xFFF1, 0xFFF2

# A bigger number sorts first where symbols share address and size.
_RANK_KIND = {STT_FUNC: 2, STT_OBJECT: 1}
_RANK_BINDING = {STB_GLOBAL: 2, STB_WEAK: 1}


@dataclass(frozen=True, slots=True)
class RawSymbols:
    """The symbol table as the file has it: relocations count in this order.

    Attributes:
        records: Elf64_Sym, the first one null.
        section: i64[n], with SHN_XINDEX resolved; reserved numbers stay.
        names: parallel to ``records``.
        index: the table's own section, or 0 if the file has none.
    """

    records: Records
    section: npt.NDArray[np.int64]
    names: tuple[str, ...]
    index: int

    @property
    def kind(self) -> npt.NDArray[np.uint8]:
        """STT_* of each symbol."""
        return self.records["info"].astype(np.uint8) & np.uint8(15)

    @property
    def external(self) -> npt.NDArray[np.bool_]:
        """Which symbols some other object defines (the null symbol does not count).

        A livepatch symbol is one: the kernel finds it when the patch is loaded.
        """
        reserved = np.isin(self.section, (SHN_UNDEF, SHN_LIVEPATCH, SHN_COMMON))
        reserved[:1] = False
        return reserved


@dataclass(frozen=True, slots=True)
class Symbols:
    """Symbols sorted by address, then the larger and the better known first.

    Attributes:
        address: u64[n], where they are laid out.
        size: u64[n], bytes; 0 for most assembly labels.
        section: i32[n], ELF section index; -1 if external or absolute.
        kind: u8[n], STT_*.
        binding: u8[n], STB_*.
        names: object[n] of str.
    """

    address: npt.NDArray[np.uint64]
    size: npt.NDArray[np.uint64]
    section: npt.NDArray[np.int32]
    kind: npt.NDArray[np.uint8]
    binding: npt.NDArray[np.uint8]
    names: npt.NDArray[np.object_]
    _by_name: dict[str, int] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.address)

    @property
    def functions(self) -> npt.NDArray[np.bool_]:
        """Which symbols are functions (STT_FUNC) of this object."""
        return np.asarray((self.kind == STT_FUNC) & (self.section >= 0))

    def index(self, address: int) -> int:
        """Return the best name's index at or before ``address``, -1 if none."""
        clamped = np.uint64(min(max(address, 0), (1 << 64) - 1))
        last = int(np.searchsorted(self.address, clamped, "right")) - 1
        if last < 0 or address < 0:
            return -1
        return int(np.searchsorted(self.address, self.address[last], "left"))

    def locate(self, address: int) -> tuple[str, int]:
        """Return the nearest symbol at or before ``address``, and the distance.

        Like kallsyms it does not ask where that symbol ends. Nothing before
        ``address``: an empty name and the address itself.
        """
        if (index := self.index(address)) < 0:
            return "", address
        return str(self.names[index]), address - int(self.address[index])

    def find(self, name: str) -> int | None:
        """Return the address of ``name``; of several local ones the lowest.

        A global symbol goes before local ones of the same name.
        """
        index = self.find_index(name)
        return None if index is None else int(self.address[index])

    def find_index(self, name: str) -> int | None:
        """Return the row of ``name`` as :meth:`find` chooses it."""
        if not self._by_name and len(self):
            local = self.binding == STB_LOCAL
            # Later ones overwrite: globals last, and among equals the first.
            order = np.lexsort((-np.arange(len(self)), ~local))
            names = self.names[order].tolist()
            self._by_name.update(zip(names, order.tolist(), strict=True))
        return self._by_name.get(name)


def read_symbols(elf: ElfFile) -> RawSymbols:
    """Read the symbol table of ``elf``; a stripped file gives an empty one.

    Raises:
        FormatError: the table, its strings or its extension is damaged.
    """
    tables = np.flatnonzero(elf.headers["type"] == SHT_SYMTAB)
    if not len(tables):
        nothing = np.zeros(0, dtype=SYM)
        return RawSymbols(nothing, np.zeros(0, dtype=np.int64), (), 0)
    index = int(tables[0])
    records = elf.records(index, SYM)
    strings = int(elf.headers[index]["link"])
    if strings >= len(elf.headers):
        raise FormatError(
            f"{elf.name}: names of symbols are in section {strings}, "
            f"the file has {len(elf.headers)}"
        )
    names = c_strings(elf.contents(strings), records["name"])
    section = records["section"].astype(np.int64)
    extended = section == SHN_XINDEX
    if extended.any():
        section[extended] = _extended_index(elf, len(records))[extended]
    ordinary = extended | (section < SHN_LORESERVE)
    if (beyond := ordinary & (section >= len(elf.headers))).any():
        first = int(np.flatnonzero(beyond)[0])
        raise FormatError(
            f"{elf.name}: symbol {names[first] or first} is in section "
            f"{section[first]}, the file has {len(elf.headers)}"
        )
    # A real section with a reserved number cannot be told from the reserved
    # meaning below, and no kernel object has that many.
    if (extended & (section >= SHN_LORESERVE)).any():
        raise FormatError(f"{elf.name}: more than {SHN_LORESERVE} sections")
    return RawSymbols(records, section, names, index)


def sort_symbols(
    raw: RawSymbols,
    address: npt.NDArray[np.uint64],
    section: npt.NDArray[np.int32],
    keep: npt.NDArray[np.bool_],
) -> Symbols:
    """Return those of ``raw`` that ``keep`` chooses, at their ``address``."""
    rows = np.flatnonzero(keep)
    kind = raw.kind
    binding = raw.records["info"].astype(np.uint8) >> np.uint8(4)
    size = raw.records["size"].astype(np.uint64)
    rank = _rank(kind, _RANK_KIND) * 4 + _rank(binding, _RANK_BINDING)
    order = rows[
        np.lexsort((255 - rank[rows], ~size[rows], address[rows]))  # last key first
    ]
    return Symbols(
        address[order],
        size[order],
        section[order],
        kind[order],
        binding[order],
        _objects(raw.names)[order],
    )


def _extended_index(elf: ElfFile, count: int) -> npt.NDArray[np.int64]:
    tables = np.flatnonzero(elf.headers["type"] == SHT_SYMTAB_SHNDX)
    if not len(tables):
        raise FormatError(f"{elf.name}: symbols need .symtab_shndx, which is missing")
    contents = elf.contents(int(tables[0]))
    if contents.size != 4 * count:
        raise FormatError(
            f"{elf.name}: .symtab_shndx has {contents.size} bytes, "
            f"{count} symbols need {4 * count}"
        )
    return np.frombuffer(contents, dtype="<u4").astype(np.int64)


def _rank(
    column: npt.NDArray[np.uint8], ranks: dict[int, int]
) -> npt.NDArray[np.uint8]:
    table = np.zeros(256, dtype=np.uint8)
    for value, rank in ranks.items():
        table[value] = rank
    return table[column]


def _objects(names: Sequence[str]) -> npt.NDArray[np.object_]:
    column = np.empty(len(names), dtype=object)
    column[:] = names
    return column
