"""Reduce: the fewest options of a difference that make the finding. Pure.

A bisection for each: of the options in their order the shortest beginning that is bad
ends with one that it takes. What stands behind is not needed, and it is asked whether
those that are found are bad alone; if not, the next bisection has them all set.
Options that make it only together are found so, with a logarithm of questions each.
At last each is left out once: what is bad without it does not need it.

What cannot be tested makes ends that nobody can tell apart: they are one ``Unit``.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Sequence

from harness.bisect.answer import Outcome
from harness.bisect.dag import Dag
from harness.bisect.search import First, Search, Untestable

Unit = tuple[str, ...]
"""Options that it takes one of; of more than one nobody can tell which."""

Reduction = Generator[frozenset[str], Outcome, tuple[Unit, ...]]


def reduce(symbols: Sequence[str]) -> Reduction:
    """Yield sets of ``symbols`` to ask about, take their outcomes; return the fewest.

    None of them is good, and all of them are bad: that was proved. The result is bad,
    and without any one of its units it is good or cannot be tested.
    """
    left = list(symbols)
    units: list[Unit] = []
    while True:
        needed = _joined(units)
        if units and (yield needed) is Outcome.BAD:
            break
        unit, left = yield from _last(left, needed)
        units.append(unit)
    return (yield from _least(units))


def _last(
    left: list[str], needed: frozenset[str]
) -> Generator[frozenset[str], Outcome, tuple[Unit, list[str]]]:
    """Return the last option of the shortest bad beginning of ``left``, and the rest.

    All of ``left`` with the ``needed`` ones is bad; the needed ones alone are not.
    """
    line = {s: (before,) for before, s in itertools.pairwise(["", *left])}
    search = Search(Dag(line), left[-1])
    while (symbol := search.next()) is not None:
        beginning = left[: left.index(symbol) + 1]
        search = search.told(symbol, (yield needed | frozenset(beginning)))
    found = search.conclusion()
    assert isinstance(found, First | Untestable)  # a line contradicts nothing
    unit = (found.commit,) if isinstance(found, First) else found.commits
    return unit, left[: left.index(unit[0])]


def _least(units: list[Unit]) -> Reduction:
    """Leave out what it does not take, until nothing more can be."""
    again = True
    while again:
        again = False
        for unit in list(units):
            for part in [unit, *([s] for s in unit if unit[1:])]:
                fewer = _without(units, part)
                if fewer and (yield _joined(fewer)) is Outcome.BAD:
                    units, again = fewer, True
                    break
            if again:
                break
    return tuple(units)


def _without(units: Sequence[Unit], part: Sequence[str]) -> list[Unit]:
    rest = (tuple(s for s in unit if s not in part) for unit in units)
    return [unit for unit in rest if unit]


def _joined(units: Sequence[Unit]) -> frozenset[str]:
    return frozenset(symbol for unit in units for symbol in unit)
