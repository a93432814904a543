"""Search: what is known about which commit made a finding, and what to ask next.

A value: telling it an answer makes another one. Everything follows from the answers,
in whatever order they came: a state file or ``git bisect log`` is replayed by telling.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct, field
from msgspec.structs import replace

from harness.bisect import midpoint
from harness.bisect.answer import Outcome
from harness.bisect.dag import Dag


class First(Struct, frozen=True):
    """The first bad commit: all that it is made on is good."""

    commit: str

    @property
    def commits(self) -> tuple[str, ...]:
        """Just the one."""
        return (self.commit,)

    @property
    def skipped(self) -> tuple[str, ...]:
        """None: it is bad."""
        return ()


class Untestable(Struct, frozen=True):
    """The first bad commit is one of ``commits``, and no answer can tell which.

    ``skipped`` are those of them that could not be tested; the other one is bad.
    """

    commits: tuple[str, ...]
    skipped: tuple[str, ...]


class Contradiction(Struct, frozen=True):
    """No single commit explains the answers: a good one is made on every culprit."""

    bad: tuple[str, ...]


Conclusion = First | Untestable | Contradiction


class Search(Struct, frozen=True):
    """A bisection between two ends.

    Attributes:
        dag: the commits that ``bad`` is made on and the good end is not; in it every
            commit may be the first bad one.
        bad: the bad end.
        answers: of the commits that were tested.
    """

    dag: Dag
    bad: str
    answers: Mapping[str, Outcome] = field(default_factory=dict)

    def told(self, commit: str, outcome: Outcome) -> Search:
        """Return the search that knows the answer of ``commit``; the last one holds."""
        return replace(self, answers={**self.answers, commit: outcome})

    def _answered(self, outcome: Outcome) -> Iterable[str]:
        return (c for c, o in self.answers.items() if o is outcome and c in self.dag)

    @property
    def candidates(self) -> frozenset[str]:
        """The commits that can be the first bad one.

        Every bad commit is made on it, and no good one is.
        """
        culprits = self.dag.ancestors([self.bad])
        for commit in self._answered(Outcome.BAD):
            culprits &= self.dag.ancestors([commit])
        return culprits - self.dag.ancestors(self._answered(Outcome.GOOD))

    def next(self) -> str | None:
        """Return the commit to test next, None if there is a conclusion."""
        candidates = self.candidates
        skipped = candidates & frozenset(self._answered(Outcome.SKIP))
        return midpoint.choose(self.dag.within(candidates), self._tip, skipped)

    @property
    def _tip(self) -> str:
        """The bad commit that all other bad ones are made on, or the bad end."""
        bad = [self.bad, *self._answered(Outcome.BAD)]
        return min(bad, key=lambda commit: len(self.dag.ancestors([commit])))

    @property
    def steps(self) -> int:
        """How many answers it still takes, if none is a skip."""
        return max(len(self.candidates) - 1, 0).bit_length()

    def conclusion(self) -> Conclusion | None:
        """Return what the answers come to, None while a question is left."""
        candidates = self.candidates
        if not candidates:
            return Contradiction(tuple(self._answered(Outcome.BAD)))
        if self.next() is not None:
            return None
        if len(candidates) == 1:
            return First(*candidates)
        listed = tuple(c for c in self.dag.parents if c in candidates)
        skipped = tuple(c for c in listed if self.answers.get(c) is Outcome.SKIP)
        return Untestable(listed, skipped)
