"""Bisection: what a whole bisection came to, before anybody formats it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from harness.bisect.answer import Answer
from harness.bisect.probe import Sight
from harness.bisect.question import Question
from harness.bisect.search import Conclusion, First
from harness.finding import Finding


class Revert(enum.StrEnum):
    """What is left of the finding at the bad end without the first bad commit."""

    GONE = "the finding is gone"
    STILL_THERE = "the finding is still there: that commit is not all of it"
    CONFLICT = "not tested: the commit does not revert cleanly there"
    UNTESTABLE = "not tested: without the commit it cannot be tested"


@dataclass(frozen=True, slots=True)
class Bisection:
    """A finished bisection.

    Attributes:
        sought: the finding as it is at the bad end.
        others: how many more findings are there that the good end has not.
        answers: all that count, in the order they came.
        first, parents: clean looks at the first bad commit and what it is made on.
        revert: None unless there is a first bad commit.
        seconds: how long this run of it took.
    """

    question: Question
    sought: Finding
    others: int
    answers: tuple[Answer, ...]
    conclusion: Conclusion
    first: Sight | None = None
    parents: tuple[Sight, ...] = ()
    revert: Revert | None = None
    seconds: float = 0.0

    @property
    def found(self) -> bool:
        """Whether there is one first bad commit."""
        return isinstance(self.conclusion, First)
