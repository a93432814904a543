"""Sites: the tables of places that a kernel patches or looks up.

Nearly all are s32 offsets relative to their own field. Some have a section of
their own everywhere, others lose it in the link and are found between the
symbols that the linker script defines (include/asm-generic/vmlinux.lds.h).
"""

from __future__ import annotations

import enum

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from harness.elf.file import Bytes
from harness.elf.program import Program
from harness.errors import FormatError


class SiteTable(enum.StrEnum):
    """The tables, by the kernel's name for them."""

    RETPOLINE_SITES = "retpoline_sites"
    RETURN_SITES = "return_sites"
    CALL_SITES = "call_sites"
    IBT_ENDBR_SEAL = "ibt_endbr_seal"
    CFI_SITES = "cfi_sites"
    SMP_LOCKS = "smp_locks"
    MCOUNT_LOC = "mcount_loc"
    STATIC_CALL_SITES = "static_call_sites"
    JUMP_TABLE = "jump_table"
    EX_TABLE = "ex_table"
    BUG_TABLE = "bug_table"


class Sites(Struct, frozen=True):
    """One table as columns, in its own order.

    Attributes:
        address: u64[n], the place in the code.
        target: u64[n], what the entry says about it: a jump label's target, an
            exception's fixup, a static call's key (its two low bits are flags:
            1 tail call, 2 init); 0 where the table has places only.
        entry_size: bytes per entry.
    """

    address: npt.NDArray[np.uint64]
    target: npt.NDArray[np.uint64]
    entry_size: int

    def __len__(self) -> int:
        return len(self.address)


def parse_sites(program: Program, table: SiteTable) -> Sites | None:
    """Read ``table`` of ``program``; None if it has none.

    Raises:
        FormatError: no known entry size makes sense of it.
    """
    spec = _SPECS[table]
    if (found := _bytes(program, spec)) is None:
        return None
    address, data = found
    candidates = [size for size in spec.sizes if not data.size % size]
    read = [_read(address, data, size, spec) for size in candidates]
    scores = [float(program.in_code(s.address).mean()) if len(s) else 1 for s in read]
    # Exception tables and jump labels may name code that objtool annotated and
    # the linker dropped, but never mostly such.
    if not scores or max(scores) < 0.5:
        sizes = " or ".join(map(str, spec.sizes))
        raise FormatError(
            f"{program.name}: {table} has {data.size} bytes, entries of {sizes} "
            "make no sense of them"
        )
    return read[scores.index(max(scores))]


def table_bytes(program: Program, table: SiteTable) -> tuple[int, Bytes] | None:
    """Return where ``table`` lies and what it holds; None if there is none."""
    return _bytes(program, _SPECS[table])


class _Spec(Struct, frozen=True):
    section: str
    sizes: tuple[int, ...] = (4,)
    second: bool = False  # the field behind the address is an address too
    start: str = ""
    stop: str = ""
    absolute: bool = False  # addresses are what they are, not offsets


_SPECS = {
    SiteTable.RETPOLINE_SITES: _Spec(".retpoline_sites"),
    SiteTable.RETURN_SITES: _Spec(".return_sites"),
    SiteTable.CALL_SITES: _Spec(".call_sites"),
    SiteTable.IBT_ENDBR_SEAL: _Spec(".ibt_endbr_seal"),
    SiteTable.CFI_SITES: _Spec(".cfi_sites"),
    SiteTable.SMP_LOCKS: _Spec(".smp_locks"),
    SiteTable.MCOUNT_LOC: _Spec(
        "__mcount_loc",
        (8,),
        absolute=True,
        start="__start_mcount_loc",
        stop="__stop_mcount_loc",
    ),
    SiteTable.STATIC_CALL_SITES: _Spec(
        ".static_call_sites",
        (8,),
        True,
        "__start_static_call_sites",
        "__stop_static_call_sites",
    ),
    # 24 bytes of absolute addresses up to 4.18, then {s32, s32, s64}.
    SiteTable.JUMP_TABLE: _Spec(
        "__jump_table", (16, 24), True, "__start___jump_table", "__stop___jump_table"
    ),
    SiteTable.EX_TABLE: _Spec("__ex_table", (12,), True),
    # Without and with file and line; with a format string since 6.19.
    SiteTable.BUG_TABLE: _Spec("__bug_table", (12, 16, 8)),
}


def _bytes(program: Program, spec: _Spec) -> tuple[int, Bytes] | None:
    if (section := program.section(spec.section)) is not None:
        return (section.address, section.data) if section.data.size else None
    if not spec.start:
        return None
    start, stop = program.symbols.find(spec.start), program.symbols.find(spec.stop)
    if start is None or stop is None or stop <= start or start in program.externals:
        return None
    return start, program.read(start, stop - start)


def _read(address: int, data: Bytes, size: int, spec: _Spec) -> Sites:
    count = len(data) // size
    places = np.uint64(address) + np.arange(count, dtype=np.uint64) * np.uint64(size)
    rows = data.reshape(count, size)
    if size == 24:
        return Sites(_field(rows, 0, "<u8"), _field(rows, 8, "<u8"), size)
    if spec.absolute:
        place = _field(rows, 0, "<u8")
        place = place[place != 0]  # of a function that the linker dropped
        return Sites(place, np.zeros_like(place), size)
    first = _field(rows, 0, "<i4")
    target = np.zeros(count, dtype=np.uint64)
    if spec.second:
        target = places + np.uint64(4) + _field(rows, 4, "<i4")
    # The linker pads .smp_locks to a page; the kernel skips zeros too.
    used = first != 0
    return Sites((places + first)[used], target[used], size)


def _field(rows: Bytes, offset: int, kind: str) -> npt.NDArray[np.uint64]:
    width = np.dtype(kind).itemsize
    column = np.ascontiguousarray(rows[:, offset : offset + width]).view(kind)
    return column.reshape(-1).astype(np.int64).view(np.uint64)
