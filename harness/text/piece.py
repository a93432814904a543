"""Piece: some code that is decoded as one, from its first byte to its last."""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from harness.text.fill import stretches
from harness.text.insn import I64, U8, U64


class Piece(Struct, frozen=True):
    """Code that begins and ends where instructions do.

    Attributes:
        data: its bytes.
        address: where it is mapped.
        parts: i64[p, 2], what to decode of it, as offsets [first, last).
        known: i64[k], offsets at which an instruction starts, ascending.
    """

    data: U8
    address: int
    parts: I64
    known: I64

    def __len__(self) -> int:
        return len(self.data)


def piece_of(
    data: U8, address: int, starts: U64 | None = None, *, whole: bool = False
) -> Piece:
    """Return a piece of code; ``starts`` are addresses, in it and elsewhere.

    Unless ``whole``, long runs of fill are left out.
    """
    parts = [(0, len(data))] if whole and len(data) else stretches(data)
    known = np.zeros(0, np.int64)
    if starts is not None:
        base = np.uint64(address)
        inside = starts[(starts >= base) & (starts - base < len(data))]
        known = np.sort((inside - base).astype(np.int64))
    return Piece(data, address, np.array(parts, np.int64).reshape(-1, 2), known)
