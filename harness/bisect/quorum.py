"""Quorum: how often a kernel is looked at whose finding shows only now and then. Pure.

A finding that shows once is there. That it is not there is a claim: ``n`` looks miss
one that shows at a rate of ``p`` with a chance of ``(1 - p) ** n``. The rate is
measured at the bad end and known from below. The conclusion is wrong with a chance of
at most the sum of all that can be wrong, the bound on the rate and each ``good``
(Boole's inequality; nothing is taken for independent but the looks at one kernel).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from msgspec import Struct

ALWAYS = 1.0
MOST = 200  # looks at one kernel: more than that nobody waits for
_HALVINGS = 50  # of an interval: beyond what a float can tell


class Quorum(Struct, frozen=True):
    """How sure a conclusion has to be.

    Attributes:
        looks: at the bad end, to measure how often the finding shows.
        confidence: the chance, at least, that the conclusion is right.
        rate: what to take for the rate of every bad kernel; 0 is: measure it.
    """

    looks: int = 1
    confidence: float = 0.95
    rate: float = ALWAYS

    def of(self, shown: int) -> float:
        """Return the least rate, given that ``shown`` looks at the bad end had it."""
        return self.rate or rate_at_least(shown, self.looks, 1 - self._half)

    @property
    def is_measured(self) -> bool:
        """Whether the rate is that of looks at the bad end, and nobody's word."""
        return not self.rate

    @property
    def _half(self) -> float:
        """The chance of being wrong that the rate may have, and that the goods may."""
        return (1 - self.confidence) / 2

    def runs(self, rate: float, goods: int) -> int:
        """Return how many looks without it make one kernel of ``goods`` good."""
        if rate >= ALWAYS:
            return 1
        all_goods = self._half if self.is_measured else 1 - self.confidence
        return max(1, math.ceil(math.log(all_goods / goods) / math.log1p(-rate)))

    def reached(self, rate: float, goods: Iterable[int]) -> float:
        """Return the confidence after ``goods``: the looks that each good took."""
        missed = sum(math.pow(1 - rate, runs) for runs in goods)
        return max(0.0, 1 - missed - (self._half if self.is_measured else 0))


ONE_LOOK = Quorum()


class Sure(Struct, frozen=True):
    """How sure a conclusion is.

    Attributes:
        shown, looks: in how many of how many looks at the bad end the finding was.
        rate: a bad kernel shows it at least so often.
        confidence: the chance, at least, that no ``good`` was a bad one.
    """

    shown: int = 1
    looks: int = 1
    rate: float = ALWAYS
    confidence: float = 1.0


CERTAIN = Sure()


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
