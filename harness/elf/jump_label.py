"""Jump_label: the table of branches that static keys turn, with their keys.

struct jump_entry is {s32 code, s32 target, s64 key}, each from its own field, since
4.19; before, 24 bytes of addresses. The key's two low bits are flags of the entry
(include/linux/jump_label.h).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from harness.elf.program import Program
from harness.elf.sites import SiteTable, parse_sites, table_bytes

_FLAGS = np.uint64(3)
_BRANCH = np.uint64(1)
_ABSOLUTE = 24


class JumpLabels(Struct, frozen=True):
    """The entries as columns.

    Attributes:
        address: u64[n], of the branch.
        target: u64[n], where it goes when it is a jump.
        key: u64[n], its struct static_key.
        branch: bool[n], it is a jump while the key is off.
    """

    address: npt.NDArray[np.uint64]
    target: npt.NDArray[np.uint64]
    key: npt.NDArray[np.uint64]
    branch: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.address)


def parse_jump_labels(program: Program) -> JumpLabels | None:
    """Read __jump_table of ``program``; None if it has none.

    Raises:
        FormatError: no known entry size makes sense of it.
    """
    sites = parse_sites(program, SiteTable.JUMP_TABLE)
    found = table_bytes(program, SiteTable.JUMP_TABLE)
    if sites is None or found is None:
        return None
    at, data = found
    rows = data.reshape(-1, sites.entry_size)
    key = np.ascontiguousarray(rows[:, -8:]).view("<u8").reshape(-1).astype(np.uint64)
    if sites.entry_size != _ABSOLUTE:
        used = np.ascontiguousarray(rows[:, :4]).view("<i4").reshape(-1) != 0
        places = np.arange(len(rows), dtype=np.uint64) * np.uint64(sites.entry_size)
        key = (key + places + np.uint64(at + sites.entry_size - 8))[used]
    branch = (key & _BRANCH) != 0
    return JumpLabels(sites.address, sites.target, key & ~_FLAGS, branch)
