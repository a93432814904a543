"""Score: recall per class of mutants, and whether it is what was asked for."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence

from msgspec import Struct

from harness.corpus.classes import CLASSES, Zone
from harness.corpus.measure import Outcome
from harness.corpus.mutant import WANTED, Kind
from harness.errors import ExitCode


class Score(Struct, frozen=True):
    """What became of the mutants of one class in one zone.

    Attributes:
        made: mutants made; those of which nothing could be spoilt do not count.
        detected: at least one rule found it.
        equivalent: proof -> mutants that nothing found and that it excuses.
        detectors: rule -> how many it found.
        recall: detected of those that are not equivalent; 1 if there are none.
        wanted: the least recall asked for, None if it is only reported.
    """

    name: str
    zone: Zone
    kind: Kind
    made: int
    detected: int
    equivalent: dict[str, int]
    detectors: dict[str, int]
    recall: float
    wanted: float | None

    @property
    def met(self) -> bool:
        """Whether the recall is what was asked for."""
        return self.wanted is None or self.recall >= self.wanted


class Result(Struct, frozen=True):
    """One run of the corpus's mutants.

    Attributes:
        subjects: the files that were spoilt.
        false_alarms: keys of new findings on the clean files.
        scores: by class and zone.
        missed: every mutant that nothing found and no rule excuses.
        unfinished: mutants that the deadline left untried.
    """

    subjects: tuple[str, ...]
    seconds: float
    false_alarms: tuple[str, ...]
    scores: tuple[Score, ...]
    missed: tuple[Outcome, ...]
    unfinished: int

    @property
    def exit_code(self) -> ExitCode:
        """1 where recall or precision is not met, 3 where not all was tried."""
        if self.unfinished:
            return ExitCode.INFRASTRUCTURE
        met = all(score.met for score in self.scores) and not self.false_alarms
        return ExitCode.CLEAN if met else ExitCode.FINDINGS


def score(outcomes: Sequence[Outcome]) -> list[Score]:
    """Return a score per class and zone, in the order of the classes."""

    def group(outcome: Outcome) -> tuple[int, str]:
        return order[outcome.wanted.name], outcome.wanted.zone.value

    order = {name: at for at, name in enumerate(CLASSES)}
    made = sorted((o for o in outcomes if o.place), key=group)
    return [_score(list(some)) for _, some in itertools.groupby(made, key=group)]


def _score(outcomes: list[Outcome]) -> Score:
    wanted = outcomes[0].wanted
    kind = CLASSES[wanted.name].kind
    equivalent = Counter(o.equivalent for o in outcomes if o.equivalent)
    detected = sum(bool(o.rules) for o in outcomes)
    missed = sum(o.missed for o in outcomes)
    return Score(
        wanted.name,
        wanted.zone,
        kind,
        len(outcomes),
        detected,
        dict(equivalent.most_common()),
        _detectors(outcomes),
        detected / (detected + missed) if detected + missed else 1.0,
        WANTED[kind],
    )


def _detectors(outcomes: Iterable[Outcome]) -> dict[str, int]:
    return dict(Counter(r for o in outcomes for r in o.rules).most_common())
