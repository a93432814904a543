"""Histories for the tests: random commit DAGs, as people and git make them."""

from __future__ import annotations

from hypothesis import strategies as st

from harness.bisect.dag import Dag


@st.composite
def histories(draw: st.DrawFn, most: int = 24) -> Dag:
    """A history of one root whose last commit is made on all others.

    Every commit has one to three earlier parents; the last one merges what is loose.
    """
    count = draw(st.integers(2, most))
    parents: dict[str, tuple[str, ...]] = {"c0": ()}
    for number in range(1, count):
        some = draw(st.sets(st.integers(0, number - 1), min_size=1, max_size=3))
        recent = {max(some), *(n for n in some if draw(st.booleans()))}
        parents[f"c{number}"] = tuple(f"c{n}" for n in sorted(recent, reverse=True))
    used = {parent for made_on in parents.values() for parent in made_on}
    loose = [commit for commit in parents if commit not in used]
    if len(loose) > 1:
        parents[f"c{count}"] = tuple(loose)
    return Dag(parents)


def top(dag: Dag) -> str:
    """The commit that is made on all others."""
    return list(dag.parents)[-1]


def between(dag: Dag, good: str) -> Dag:
    """The piece that is not ``good`` and what it is made on."""
    return dag.within(frozenset(dag.parents) - dag.ancestors([good]))
