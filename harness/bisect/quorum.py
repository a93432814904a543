"""Quorum: how often a kernel is looked at whose finding shows only now and then. Pure.

A finding that shows once is there. That it is not there is a claim with a confidence:
``n`` looks miss one that shows at a rate of ``p`` with a chance of ``(1 - p) ** n``.
The rate is not guessed; the bad end is looked at until it is known from below.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

ALWAYS = 1.0
_HALVINGS = 50  # of an interval: beyond what a float can tell


@dataclass(frozen=True, slots=True)
class Quorum:
    """How often a finding shows at least, and how sure a ``good`` has to be.

    Attributes:
        rate: a bad kernel shows it in one look with at least this chance.
        confidence: the chance, at least, that a kernel called good is.
    """

    rate: float = ALWAYS
    confidence: float = 0.99

    @property
    def runs(self) -> int:
        """How many looks without it make a kernel good."""
        if self.rate >= ALWAYS:
            return 1
        return math.ceil(math.log(1 - self.confidence) / math.log(1 - self.rate))

    def confidence_of(self, runs: int) -> float:
        """Return the chance that ``runs`` looks would have shown it."""
        return 1 - (1 - self.rate) ** runs


def per_answer(confidence: float, answers: int) -> float:
    """Return what each of ``answers`` has to hold with, so that all of them do."""
    return float(confidence ** (1 / max(answers, 1)))


def rate_at_least(shown: int, runs: int, confidence: float) -> float:
    """Return the rate that ``shown`` of ``runs`` looks prove, with ``confidence``.

    That is the lower end of Clopper and Pearson's one-sided interval: at any lesser
    rate that many would have shown with a chance below ``1 - confidence``.
    """
    if shown == 0:
        return 0.0
    low, high = 0.0, shown / runs
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _at_least(shown, runs, middle) < 1 - confidence:
            low = middle
        else:
            high = middle
    return low


def _at_least(shown: int, runs: int, rate: float) -> float:
    """Return the chance that ``shown`` or more of ``runs`` looks show it."""
    return sum(
        math.comb(runs, k) * rate**k * (1 - rate) ** (runs - k)
        for k in range(shown, runs + 1)
    )
