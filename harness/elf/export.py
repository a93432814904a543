"""Export: what an object offers to modules, __ksymtab and __ksymtab_gpl.

struct kernel_symbol (include/linux/export-internal.h) has no size of its own:

    16 bytes   u64 value, u64 name                          4.14 - 4.18
     8 bytes   s32 value, s32 name, relative to themselves  4.19 - 5.3
    12 bytes   and s32 namespace                            5.4 -
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from harness.elf.file import Bytes
from harness.elf.program import Program, Section
from harness.errors import FormatError

_SIZES = (12, 8, 16)
_U64 = npt.NDArray[np.uint64]


def parse_exports(program: Program) -> dict[str, int]:
    """Return name -> address of everything that ``program`` exports.

    Raises:
        FormatError: no known entry size makes sense of a table.
    """
    exports: dict[str, int] = {}
    for table in ("__ksymtab", "__ksymtab_gpl"):
        for section in program.named(table):
            if section.data.size:
                exports |= dict(_read(program, section))
    return exports


def _read(program: Program, section: Section) -> Iterator[tuple[str, int]]:
    fitting = [size for size in _SIZES if not section.data.size % size]
    for size in fitting:
        value, name = _fields(section, size)
        strings = program.section_at(int(name[0]))
        if strings is None or strings.name != "__ksymtab_strings":
            continue
        inside = (name >= np.uint64(strings.address)) & (name < np.uint64(strings.end))
        if inside.all():
            text = strings.data.tobytes()
            for at, address in zip(name.tolist(), value.tolist(), strict=True):
                start = at - strings.address
                yield text[start : text.index(b"\0", start)].decode(), address
            return
    raise FormatError(
        f"{program.name}: {section.name} has {section.data.size} bytes, entries of "
        "8, 12 or 16 make no sense of them"
    )


def _fields(section: Section, size: int) -> tuple[_U64, _U64]:
    rows = section.data.reshape(-1, size)
    if size == 16:
        words = np.ascontiguousarray(rows).view("<u8")
        return words[:, 0], words[:, 1]
    step = np.arange(len(rows), dtype=np.uint64) * np.uint64(size)
    at = step + np.uint64(section.address)
    return at + _s32(rows, 0), at + np.uint64(4) + _s32(rows, 4)


def _s32(rows: Bytes, offset: int) -> _U64:
    column = np.ascontiguousarray(rows[:, offset : offset + 4]).view("<i4")
    return column.reshape(-1).astype(np.int64).view(np.uint64)
