"""Trend: what a number of a stage was in each of several runs.

Numbers are the stage's counts, its seconds, how many findings it had, and its coverage.
A stage without a verdict has none: it ended early, and its numbers would look like news.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import Struct

from harness.history.diff import VERDICTS
from harness.result import RunResult, Stage, Status

SECONDS = "seconds"
NEW = "new findings"
KNOWN = "known findings"
COVERAGE = "coverage %"


class Measured(Struct, frozen=True):
    """The numbers of one stage of one run."""

    run_id: str
    stage: Stage
    variant: str
    status: Status
    seconds: float
    counts: Mapping[str, int]
    new: int
    known: int


class Point(Struct, frozen=True):
    """One run's number."""

    run_id: str
    value: float


class Trend(Struct, frozen=True):
    """One number over the runs, in their order; those without it have no point."""

    variant: str
    stage: Stage
    name: str
    points: tuple[Point, ...]

    @property
    def values(self) -> tuple[float, ...]:
        """The numbers alone."""
        return tuple(point.value for point in self.points)

    @property
    def moved(self) -> bool:
        """Whether it was not the same all the time."""
        return len(set(self.values)) > 1


def measured(run: RunResult) -> tuple[Measured, ...]:
    """Return the numbers of each stage of ``run``."""
    return tuple(
        Measured(
            run.run_id,
            stage.stage,
            stage.variant,
            stage.status,
            stage.seconds,
            stage.counts,
            len(stage.findings),
            len(stage.known),
        )
        for stage in run.stages
    )


def trends(stages: Iterable[Measured]) -> tuple[Trend, ...]:
    """Return every number of ``stages``, which come run by run.

    Variants, stages and names are in the order in which they were first seen.
    """
    found: dict[tuple[str, Stage, str], list[Point]] = {}
    for each in stages:
        if each.status in VERDICTS:
            for name, value in _numbers(each):
                place = (each.variant, each.stage, name)
                found.setdefault(place, []).append(Point(each.run_id, value))
    return tuple(Trend(*place, tuple(points)) for place, points in found.items())


def _numbers(stage: Measured) -> Iterator[tuple[str, float]]:
    yield SECONDS, stage.seconds
    yield NEW, stage.new
    yield KNOWN, stage.known
    if (share := coverage(stage.counts)) is not None:
        yield COVERAGE, share
    yield from stage.counts.items()


def coverage(counts: Mapping[str, int]) -> float | None:
    """Return the percentage of instructions that have a state and an edge to them.

    That is of all that may be run: ``blind`` ones have no state, and no edge leads to
    ``unreached`` ones (harness/verify/edges/coverage.py). None, if none were counted.
    """
    defined, blind = counts.get("defined", 0), counts.get("blind", 0)
    if not defined:
        return None
    return 100 * (defined - counts.get("unreached", 0)) / (defined + blind)


_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float]) -> str:
    """Draw ``values`` as bars, lowest to highest; equal ones are all low."""
    low, high = min(values, default=0), max(values, default=0)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0
    return "".join(_BARS[round((value - low) * scale)] for value in values)
