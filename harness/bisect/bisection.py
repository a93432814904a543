"""Bisection: what a whole bisection came to, before anybody formats it."""

from __future__ import annotations

import enum
from collections.abc import Mapping

from msgspec import Struct, field

from harness.bisect.answer import Answer
from harness.bisect.question import Question
from harness.bisect.quorum import CERTAIN, Sure
from harness.bisect.search import Conclusion, First
from harness.bisect.sight import Sight
from harness.finding import Finding


class Revert(enum.StrEnum):
    """What is left of the finding at the bad end without the first bad commit."""

    GONE = "the finding is gone"
    STILL_THERE = "the finding is still there: that commit is not all of it"
    CONFLICT = "not tested: the commit does not revert cleanly there"
    UNTESTABLE = "not tested: without the commit it cannot be tested"


class Bisection(Struct, frozen=True):
    """A finished bisection.

    Attributes:
        sought: the finding as it is at the bad end.
        others: how many more findings are there that the good end has not.
        answers: all that count, in the order they came.
        first, parents: clean looks at the first bad commit and what it is made on.
        reverts: what reverting the first bad commit came to; of an untestable range
            that is short, reverting each of it.
        no_ops: those that left the same bytes as all that they are made on.
        sure: how sure that is.
        seconds: how long this run of it took.
    """

    question: Question
    sought: Finding
    others: int
    answers: tuple[Answer, ...]
    conclusion: Conclusion
    first: Sight | None = None
    parents: tuple[Sight, ...] = ()
    reverts: Mapping[str, Revert] = field(default_factory=dict)
    no_ops: tuple[str, ...] = ()
    sure: Sure = CERTAIN
    seconds: float = 0.0

    @property
    def found(self) -> bool:
        """Whether there is one first bad commit."""
        return isinstance(self.conclusion, First)

    @property
    def culprit(self) -> str:
        """The first bad commit; of a range, the only one without which it is gone."""
        if isinstance(self.conclusion, First):
            return self.conclusion.commit
        gone = [c for c, revert in self.reverts.items() if revert is Revert.GONE]
        return gone[0] if len(gone) == 1 else ""
