"""Rows: where the compiler says that a frame is, by address."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from msgspec import Struct

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

RBP, RSP = 6, 7  # DWARF's numbers
NO_REGISTER = 255  # the CFA is an expression, or nothing is known
SAME = 1  # %rbp is unchanged; any other rule value is an offset from the CFA
UNTOLD = 2  # %rbp is told by an expression or by another register


class FrameRows(Struct, frozen=True):
    """Rows by address; each holds up to the next one.

    Attributes:
        address: u64[n].
        cfa_register: u8[n], DWARF's number, or NO_REGISTER.
        cfa_offset: i64[n], bytes from it to the CFA.
        rbp: i64[n], offset from the CFA at which the caller's %rbp is; SAME, UNTOLD.
        covered: bool[n], false behind a function's end.
    """

    address: U64
    cfa_register: npt.NDArray[np.uint8]
    cfa_offset: I64
    rbp: I64
    covered: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.address)
