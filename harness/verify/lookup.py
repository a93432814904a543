"""Lookup: the ORC table as the unwinder asks it: which state holds at an address."""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from harness.elf.orc import OrcTable
from harness.text.insn import I64, U64
from harness.verify.transfer import UNDEFINED


class Lookup(Struct, frozen=True):
    """Entries in lookup order: ``ip`` u64[n] ascending, ``state`` i64[n]."""

    ip: U64
    state: I64

    def at(self, addresses: U64) -> I64:
        """Return the state at each of ``addresses``; undefined before the table."""
        row = np.searchsorted(self.ip, addresses, side="right").astype(np.int64) - 1
        return np.where(row < 0, UNDEFINED, self.state[np.maximum(row, 0)])

    def one(self, address: int) -> int:
        """Return the state at ``address``."""
        return int(self.at(np.array([address], np.uint64))[0])


def lookup_of(table: OrcTable) -> Lookup:
    """Return the lookup of ``table``, sorted as the kernel sorts it."""
    ordered = table.sorted()
    return Lookup(ordered.ip, ordered.state)
