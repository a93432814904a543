"""Bisection: what a search for options came to, before anybody formats it."""

from __future__ import annotations

import enum
from collections.abc import Mapping

from msgspec import Struct

from harness.bisect.answer import Answer
from harness.bisect.config.delta import Delta
from harness.bisect.question import Question
from harness.bisect.quorum import CERTAIN, Sure
from harness.bisect.sight import Sight
from harness.finding import Finding


class Without(enum.StrEnum):
    """What is left of the finding in the bad configuration without the options."""

    GONE = "the finding is gone"
    STILL_THERE = "the finding is still there: other options make it, too"
    HELD = "not tested: other options of the bad configuration bring them back"
    UNTESTABLE = "not tested: without them it does not build"


class ConfigBisection(Struct, frozen=True):
    """A finished search.

    Attributes:
        sought: the finding as it is with the bad configuration.
        others: how many more findings it has that the good one has not.
        units: the options that it takes, together; of a unit of several nobody can
            tell which.
        differing: how many symbols differ between the ends.
        asked: how many configurations were asked for; fewer were built, since most
            options change nothing alone.
        follows: what olddefconfig changes, too, where the units are set on the good
            configuration.
        answers: all that count, by the hash of the configuration.
        labels: what each of those is, for people.
        first: a clean look with the units set; without: one without each unit.
        reverse: what became of the finding with the units of the good configuration
            in the bad one.
        sure: how sure that is.
        seconds: how long this run of it took.
    """

    question: Question
    sought: Finding
    others: int
    units: tuple[tuple[Delta, ...], ...]
    differing: int
    asked: int
    follows: tuple[Delta, ...]
    answers: tuple[Answer, ...]
    labels: Mapping[str, str]
    first: Sight
    without: tuple[Sight, ...]
    reverse: Without
    sure: Sure = CERTAIN
    seconds: float = 0.0

    @property
    def found(self) -> bool:
        """Whether every option that it takes is known."""
        return all(len(unit) == 1 for unit in self.units)
