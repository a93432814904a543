"""Symbol: the names of an object, as columns sorted by address."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from harness.elf.column import joined
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


class Names(Struct, frozen=True):
    """Names that are read from the file's strings when somebody asks.

    Attributes:
        strings: strings, each with a NUL behind it, some the tail of another.
        offset: i64[n], where each name starts.
    """

    strings: bytes
    offset: npt.NDArray[np.int64]

    @classmethod
    def of(cls, texts: Sequence[str]) -> Names:
        """Return ``texts`` as names."""
        encoded = [text.encode("latin-1") for text in texts]
        ends = np.cumsum([len(text) + 1 for text in encoded], dtype=np.int64)
        sizes = np.array([len(text) + 1 for text in encoded], dtype=np.int64)
        return cls(b"\0".join([*encoded, b""]), ends - sizes)

    def __len__(self) -> int:
        return len(self.offset)

    def __getitem__(self, row: int) -> str:
        start = int(self.offset[row])
        end = self.strings.find(b"\0", start)
        return self.strings[start : end if end >= 0 else None].decode("latin-1")

    @property
    def unsaid(self) -> npt.NDArray[np.bool_]:
        """bool[n], which symbols have no name, or one that no kernel says (.L...).

        scripts/mksysmap keeps local labels out of kallsyms.
        """
        text = np.frombuffer(self.strings + b"\0\0", dtype=np.uint8)
        first = np.minimum(self.offset, len(self.strings))
        local = (text[first] == ord(".")) & (text[first + 1] == ord("L"))
        return np.asarray(local | (text[first] == 0))

    def take(self, rows: npt.NDArray[np.int64]) -> Names:
        """Return the names of ``rows``."""
        return Names(self.strings, self.offset[rows])

    def column(self) -> npt.NDArray[np.object_]:
        """Return all of them as object[n] of str."""
        text = np.frombuffer(self.strings, dtype=np.uint8)
        names = np.empty(len(self), dtype=object)
        names[:] = c_strings(text, self.offset)
        return names

    def rows(self, name: str) -> npt.NDArray[np.int64]:
        """Return the rows that are called ``name``."""
        wanted = name.encode("latin-1") + b"\0"
        called = np.zeros(len(self), dtype=bool)
        at = self.strings.find(wanted)
        while at >= 0:  # a string may be the tail of others
            called |= self.offset == at
            at = self.strings.find(wanted, at + 1)
        return np.flatnonzero(called)


class RawSymbols(Struct, frozen=True):
    """The symbol tables as the file has them: relocations count in this order.

    Attributes:
        records: Elf64_Sym, the first one of each table null.
        section: i64[n], with SHN_XINDEX resolved; reserved numbers stay.
        names: parallel to ``records``.
        first: section of each table -> row of its first symbol.
    """

    records: Records
    section: npt.NDArray[np.int64]
    names: Names
    first: dict[int, int]

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
        reserved[self.nulls] = False
        return reserved

    @property
    def nulls(self) -> list[int]:
        """The rows of the null symbols."""
        return [row for row in self.first.values() if row < len(self.records)]


class Symbols(Struct, frozen=True, dict=True):
    """Symbols sorted by address, then the larger and the better known first.

    Attributes:
        address: u64[n], where they are laid out.
        size: u64[n], bytes; 0 for most assembly labels.
        section: i32[n], ELF section index; -1 if external, or in none.
        kind: u8[n], STT_*.
        binding: u8[n], STB_*.
        name: their names, in the same order.
    """

    address: npt.NDArray[np.uint64]
    size: npt.NDArray[np.uint64]
    section: npt.NDArray[np.int32]
    kind: npt.NDArray[np.uint8]
    binding: npt.NDArray[np.uint8]
    name: Names

    def __len__(self) -> int:
        return len(self.address)

    @functools.cached_property
    def names(self) -> npt.NDArray[np.object_]:
        """object[n] of str; for one or two ask ``name``."""
        return self.name.column()

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
        return self.name[index], address - int(self.address[index])

    def find(self, name: str) -> int | None:
        """Return the address of ``name``; of several local ones the lowest.

        A global symbol goes before local ones of the same name.
        """
        index = self.find_index(name)
        return None if index is None else int(self.address[index])

    def find_index(self, name: str) -> int | None:
        """Return the row of ``name`` as :meth:`find` chooses it."""
        if name not in self._found:
            self._found[name] = self._search(name)
        return self._found[name]

    @functools.cached_property
    def _found(self) -> dict[str, int | None]:
        # each view of a kernel asks for the same hundreds; one takes a millisecond
        return {}

    def _search(self, name: str) -> int | None:
        rows = self.name.rows(name)
        if not len(rows):
            return None
        local = self.binding[rows] == STB_LOCAL
        return int(rows[np.argmin(local)])  # the first that is global, else the first


def read_symbols(elf: ElfFile) -> RawSymbols:
    """Read the symbol tables of ``elf``; a stripped file gives an empty one.

    Raises:
        FormatError: a table, its strings or its extension is damaged.
    """
    tables = np.flatnonzero(elf.headers["type"] == SHT_SYMTAB).tolist()
    if len(elf.firsts) == 1:
        tables = tables[:1]
    records, sections, offsets = [], [], []
    first: dict[int, int] = {}
    strings, row = b"", 0
    for index in tables:
        first[index] = row
        records.append(elf.records(index, SYM))
        sections.append(_sections(elf, index, records[-1]))
        offsets.append(records[-1]["name"].astype(np.int64) + len(strings))
        strings += _strings(elf, index) + b"\0"
        row += len(records[-1])
    return RawSymbols(
        joined(records, SYM),
        np.concatenate(sections or [np.zeros(0, dtype=np.int64)]),
        Names(strings, np.concatenate(offsets or [np.zeros(0, dtype=np.int64)])),
        first,
    )


def _strings(elf: ElfFile, index: int) -> bytes:
    strings = int(elf.headers[index]["link"])
    if strings >= len(elf.headers):
        raise FormatError(
            f"{elf.name}: names of symbols are in section {strings}, "
            f"the file has {len(elf.headers)}"
        )
    return elf.contents(strings).tobytes()


def _sections(elf: ElfFile, index: int, records: Records) -> npt.NDArray[np.int64]:
    """Return the section of each of ``records``, numbered as in ``elf.headers``."""
    section = records["section"].astype(np.int64)
    extended = section == SHN_XINDEX
    before, last = elf.member(index)
    if extended.any():
        section[extended] = _extended_index(elf, before, last, len(records))[extended]
    ordinary = extended | (section < SHN_LORESERVE)
    if (beyond := ordinary & (section >= last - before)).any():
        row = int(np.flatnonzero(beyond)[0])
        names = Names(_strings(elf, index), records["name"].astype(np.int64))
        raise FormatError(
            f"{elf.name}: symbol {names[row] or row} is in section {section[row]}, "
            f"the file has {last - before}"
        )
    # A real section with a reserved number cannot be told from the reserved
    # meaning below, and no kernel object has that many.
    if (extended & (section >= SHN_LORESERVE)).any():
        raise FormatError(f"{elf.name}: more than {SHN_LORESERVE} sections")
    section[ordinary & (section != SHN_UNDEF)] += before
    return section


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
    order = rows[np.argsort(address[rows], kind="stable")]
    # only what shares its address with another needs a second look
    same = address[order[1:]] == address[order[:-1]]
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
    some = order[tied]
    order[tied] = some[
        np.lexsort((255 - rank[some], ~size[some], address[some]))  # last key first
    ]
    return Symbols(
        address[order],
        size[order],
        section[order],
        kind[order],
        binding[order],
        raw.names.take(order),
    )


def _extended_index(
    elf: ElfFile, first: int, last: int, count: int
) -> npt.NDArray[np.int64]:
    kinds = elf.headers["type"][first:last]
    tables = np.flatnonzero(kinds == SHT_SYMTAB_SHNDX) + first
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
