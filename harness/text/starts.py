"""Starts: where instructions start, as a bitmap that answers many questions at once.

A bit for each byte of the code, and for each 64 of them the number of instructions
before: what :meth:`harness.text.insn.Insns.index` finds by bisection is here a matter
of two loads and a count of bits.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from harness.elf.column import pieces
from harness.text.insn import I64, U64, Insns

WIDEST = 1 << 28  # bytes from the first to the last instruction
_ONE = np.uint64(1)


class Starts(Struct, frozen=True):
    """The bitmap; ``words`` u64[w] bits, ``before`` i64[w] rows, from ``base`` on."""

    base: int
    words: U64
    before: I64

    def index(self, addresses: U64) -> I64:
        """Return where an instruction starts at each of ``addresses``, else -1."""
        row = np.empty(len(addresses), np.int64)
        for some in pieces(len(row)):
            row[some] = self._index(addresses[some])
        return row

    def _index(self, addresses: U64) -> I64:
        offset = np.asarray(addresses, np.uint64) - np.uint64(self.base)
        beyond = offset >= np.uint64(len(self.words) * 64)
        offset[beyond] = 0
        place = (offset >> np.uint64(6)).view(np.int64)
        word = self.words[place]
        bit = offset & np.uint64(63)
        row = self.before[place] + np.bitwise_count(word & ((_ONE << bit) - _ONE))
        none = (word >> bit & _ONE == 0) | beyond
        row[none] = -1
        return np.asarray(row)


def starts_of(insns: Insns) -> Starts | None:
    """Return the bitmap of ``insns``; None if they lie too far apart for one."""
    if not len(insns):
        return None
    base = int(insns.address[0])
    width = int(insns.address[-1]) - base + 1
    if width > WIDEST:
        return None
    bits = np.zeros(-(-width // 64) * 64, bool)
    for some in pieces(len(insns)):
        bits[(insns.address[some] - np.uint64(base)).view(np.int64)] = True
    words = np.packbits(bits, bitorder="little").view("<u8")
    count = np.bitwise_count(words).astype(np.int64)
    return Starts(base, words, np.cumsum(count) - count)
