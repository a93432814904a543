"""Bug: which ud2 and ud1 are warnings, behind which the code goes on.

struct bug_entry (include/asm-generic/bug.h) has s32 offsets relative to the field,
a u16 line number and u16 flags, of which the first bit says "warning":

    8 bytes    bug, flags, padding     no CONFIG_DEBUG_BUGVERBOSE
    12 bytes   bug, file, line, flags
    16 bytes   bug, format, file, line, flags   since 6.19
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from harness.elf.program import Program
from harness.elf.sites import SiteTable, parse_sites

BUGFLAG_WARNING = 1
_FLAGS_AT = {8: 4, 12: 10, 16: 14}


def parse_warnings(program: Program) -> npt.NDArray[np.uint64]:
    """Return u64[n], the addresses of the instructions that only warn.

    Raises:
        FormatError: no known entry size makes sense of __bug_table.
    """
    bugs = parse_sites(program, SiteTable.BUG_TABLE)
    section = program.section("__bug_table")
    if bugs is None or section is None:
        return np.zeros(0, np.uint64)
    size = bugs.entry_size
    rows = section.data.reshape(-1, size)
    rows = rows[np.ascontiguousarray(rows[:, :4]).view("<i4").reshape(-1) != 0]
    at = _FLAGS_AT[size]
    flags = np.ascontiguousarray(rows[:, at : at + 2]).view("<u2").reshape(-1)
    return np.asarray(bugs.address[flags & BUGFLAG_WARNING != 0])
