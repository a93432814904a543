"""Ledger: which edges were looked at, which of them do not hold at first sight."""

from __future__ import annotations

from collections import Counter

import numpy as np
from msgspec import Struct, field

from harness.text.insn import I64, U64
from harness.verify.edges.edge import EdgeKind, Edges, edges, join
from harness.verify.successor import Bools


class Ledger(Struct):
    """Collects edges as the rules make them.

    Attributes:
        reached: bool[n], rows of instructions that some edge leads to.
        counts: edges by kind.
    """

    reached: Bools
    counts: Counter[EdgeKind] = field(default_factory=Counter)
    _doubtful: list[Edges] = field(default_factory=list)

    def enter(self, kind: EdgeKind, source: I64, target: U64, holds: Bools) -> None:
        """Enter edges of one kind, and whether each holds."""
        self.counts[kind] += len(source)
        doubt = ~holds
        self._doubtful.append(edges(kind, source[doubt], target[doubt]))

    def reach(self, rows: I64) -> None:
        """Note that edges lead to ``rows``; negative ones are no instructions."""
        self.reached[rows[rows >= 0]] = True

    @property
    def doubtful(self) -> Edges:
        """The edges that do not hold at first sight, as they were entered."""
        return join(self._doubtful)


def ledger_for(count: int) -> Ledger:
    """Return an empty ledger for ``count`` instructions."""
    return Ledger(np.zeros(count, bool))
