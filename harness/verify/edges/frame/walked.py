"""Walked: what executing units came to."""

from __future__ import annotations

from msgspec import Struct, field

from harness.verify.edges.frame.assume import Assumption
from harness.verify.edges.frame.claim import Answer


class Refusal(Struct, frozen=True):
    """A claim that does not hold.

    Attributes:
        row: where it is claimed.
        source: the row from which control came; ``row`` itself for what it must
            find when it leaves its function.
        state: the claim.
        answer: why not.
        actual: the frame, in ORC's words.
    """

    row: int
    source: int
    state: int
    answer: Answer
    actual: str


class Walked(Struct):
    """What all walks came to; rows everywhere.

    Attributes:
        refused: (source, row) -> the first refusal on that way.
        assumed: (source, row) -> why the claim at row was taken.
        executed: rows whose instruction was executed.
        kept: mask of registers of which was asked whether they have their first
            values at all exits, and which have.
    """

    refused: dict[tuple[int, int], Refusal] = field(default_factory=dict)
    assumed: dict[tuple[int, int], Assumption] = field(default_factory=dict)
    executed: set[int] = field(default_factory=set)
    kept: int = 0

    @property
    def told(self) -> dict[tuple[int, int], Assumption]:
        """What was assumed of calls: it counts for whoever asked about a callee."""
        kept = Assumption.KEPT
        return {way: why for way, why in self.assumed.items() if why is kept}
