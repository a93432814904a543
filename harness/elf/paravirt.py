"""Paravirt: the table of .parainstructions, gone since 6.8.

    struct paravirt_patch_site { u8 *instr; u8 type; u8 len; };

Entries are 8-byte aligned, so 16 bytes apart; the padding behind the last one may
be missing. Kernels up to 4.18 have a u16 clobbers in it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from harness.elf.program import Program
from harness.errors import FormatError

STRIDE = 16
USED = 10  # bytes of an entry that matter

_SITE = np.dtype([("instr", "<u8"), ("type", "u1"), ("length", "u1"), ("pad", "V6")])


class Parainstructions(Struct, frozen=True):
    """The sites as columns, in the order of the table.

    Attributes:
        address: u64[n], of the indirect call.
        type: u8[n], the operation: a word's index in struct paravirt_patch_template.
        length: u8[n], bytes at the site.
    """

    address: npt.NDArray[np.uint64]
    type: npt.NDArray[np.uint8]
    length: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.address)


def parse_parainstructions(program: Program) -> Parainstructions | None:
    """Read .parainstructions of ``program``; None if it has none.

    Raises:
        FormatError: its size is impossible, or most sites are not in code.
    """
    section = program.section(".parainstructions")
    if section is None or not section.size:
        return None
    tail = section.data.size % STRIDE
    if not section.data.size or 0 < tail < USED:
        raise FormatError(
            f"{program.name}: .parainstructions has {section.data.size} bytes, "
            f"expected entries of {STRIDE}"
        )
    padding = np.zeros(-section.data.size % STRIDE, dtype=np.uint8)
    records = np.frombuffer(np.concatenate([section.data, padding]), dtype=_SITE)
    slide = np.uint64(program.slide % (1 << 64))
    address = records["instr"].astype(np.uint64) + slide  # they are as they were linked
    in_code = program.in_code(address)
    if in_code.mean() < 0.5:
        raise FormatError(
            f"{program.name}: .parainstructions: {int((~in_code).sum())} of "
            f"{len(records)} sites are not in code"
        )
    return Parainstructions(
        address=address,
        type=records["type"].astype(np.uint8),
        length=records["length"].astype(np.uint8),
    )
