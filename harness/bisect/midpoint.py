"""Midpoint: the commit whose answer halves the candidates, as git weighs it. Pure.

git's ``bisect.c`` (v2.39): a commit's weight is how many candidates it is made on, itself
included; its distance is the lesser of that and of what remains; the greatest
distance is tested next. Where that one was skipped, ``skip_away`` goes some way off,
since the neighbours of a commit that does not build seldom build.
"""

from __future__ import annotations

import math
from collections.abc import Set

from harness.bisect.dag import Dag

CHUNK = 4096  # candidates whose descendants are told apart at once
_PRN_MODULO = 32768


def distances(candidates: Dag) -> dict[str, int]:
    """Return each candidate's distance: how many its answer rules out at least."""
    count = len(candidates)
    return {c: min(w, count - w) for c, w in weigh(candidates).items()}


def weigh(candidates: Dag) -> dict[str, int]:
    """Return how many candidates each one is made on, itself included.

    A set of ancestors is an integer, a bit per commit; chunks of them bound the memory
    that a whole release takes.
    """
    order = list(candidates.upwards())
    weights = dict.fromkeys(order, 0)
    for first in range(0, len(order), CHUNK):
        bits = {c: 1 << i for i, c in enumerate(order[first : first + CHUNK])}
        reached: dict[str, int] = {}
        for commit in order[first:]:  # ancestors come first: none before has any
            below = bits.get(commit, 0)
            for parent in candidates.parents[commit]:
                below |= reached.get(parent, 0)
            reached[commit] = below
            weights[commit] += below.bit_count()
    return weights


def choose(candidates: Dag, tip: str, skipped: Set[str]) -> str | None:
    """Return the candidate to test next, None if all were answered.

    ``tip`` is the candidate that is bad already; nobody could tell of ``skipped``.
    """
    far = distances(candidates)
    ranked = sorted(candidates.parents, key=lambda commit: -far[commit])
    ranked = [commit for commit in ranked if commit != tip]
    left = [commit for commit in ranked if commit not in skipped]
    if not left:
        return None
    return left[skip_away(len(left))] if ranked[0] in skipped else left[0]


def skip_away(count: int) -> int:
    """Return which of ``count`` ranked commits to test where the best was skipped.

    It is no chance: the same search asks the same commits. Half of the time it stays
    in the better third.
    """
    random = (count * 1103515245 + 12345 & 0xFFFFFFFF) // 65536 % _PRN_MODULO
    return count * random // _PRN_MODULO * math.isqrt(random) // math.isqrt(_PRN_MODULO)
