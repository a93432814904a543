"""Diff: two runs told apart by their findings' keys: new, known, fixed, unseen.

A key holds no address and no offset, so that a rebuild alone makes no difference. What
is not found any more is fixed only where the later run looked and came to a verdict,
at the same files; where it did not, the finding is unseen, which is no good news.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from msgspec import Struct

from harness.finding import Finding
from harness.result import RunResult, Stage, StageResult, Status

VERDICTS = (Status.PASS, Status.FAIL)

Place = tuple[Stage, str]  # stage and variant


class Change(Struct, frozen=True):
    """One finding of either run.

    Attributes:
        finding: as the later run has it, or else the earlier.
        excused: whether it was known there, by an entry or a baseline.
        variants: the variants in which it was found there, sorted.
    """

    finding: Finding
    excused: bool
    variants: tuple[str, ...]


class Diff(Struct, frozen=True):
    """What became of all findings from run ``before`` to run ``after``.

    ``trees`` are what the two were of.
    """

    before: str
    after: str
    new: tuple[Change, ...]
    known: tuple[Change, ...]
    fixed: tuple[Change, ...]
    unseen: tuple[Change, ...]
    trees: tuple[str, str] = ("", "")

    @property
    def worse(self) -> bool:
        """Whether there is something new that nothing excuses."""
        return any(not change.excused for change in self.new)


def diff(before: RunResult, after: RunResult) -> Diff:
    """Return what became of the findings of ``before`` in ``after``."""
    was, now = _sightings(before), _sightings(after)
    gone = {key: seen for key, seen in was.items() if key not in now}
    fixed = {key for key, seen in gone.items() if _looked(seen, before, after)}
    new = {key for key, seen in now.items() if key not in was or _expired(seen)}
    return Diff(
        before.run_id,
        after.run_id,
        new=_changes(now, new),
        known=_changes(now, now.keys() - new),
        fixed=_changes(was, fixed),
        unseen=_changes(was, gone.keys() - fixed),
        trees=(before.tree, after.tree),
    )


class _Sighting(Struct, frozen=True):
    finding: Finding
    excused: bool
    stage: StageResult

    @property
    def place(self) -> Place:
        return self.stage.stage, self.stage.variant

    def within(self, objects: set[str]) -> bool:
        """Tell whether ``objects`` are all that the finding can be in.

        That is the one that it names, if it was seen once and there. Else it may be
        in any that was judged, and of runs that do not tell which nothing is known.
        """
        if self.stage.stage is not Stage.VALIDATE:
            return True
        named, judged = self.finding.location.object, self.stage.objects
        once = self.finding.occurrences == 1 and named in judged
        return bool(judged) and objects.issuperset([named] if once else judged)


def _sightings(run: RunResult) -> dict[str, list[_Sighting]]:
    found: dict[str, list[_Sighting]] = {}
    for sighting in _all(run):
        found.setdefault(sighting.finding.key, []).append(sighting)
    return found


def _all(run: RunResult) -> Iterator[_Sighting]:
    for stage in run.stages:
        yield from (_Sighting(finding, False, stage) for finding in stage.findings)
        yield from (_Sighting(finding, True, stage) for finding in stage.known)


def _expired(seen: list[_Sighting]) -> bool:
    """Tell whether an entry about the finding has expired: it is new, whoever had it."""
    return any(sighting.finding.expired for sighting in seen)


def _looked(seen: list[_Sighting], before: RunResult, after: RunResult) -> bool:
    """Tell whether ``after`` judged whatever ``before`` saw the finding in."""
    called = _names(before, after)
    objects = _objects(after)

    def looked(sighting: _Sighting) -> bool:
        stage, variant = sighting.place
        there = objects.get((stage, called.get(variant, variant)))
        return there is not None and sighting.within(there)

    return all(map(looked, seen))


def _objects(run: RunResult) -> dict[Place, set[str]]:
    """Return the files that ``run`` judged, by the places where it has a verdict."""
    found: dict[Place, set[str]] = {place: set() for place in places(run)}
    for stage in run.stages:
        if (place := (stage.stage, stage.variant)) in found:
            found[place].update(stage.objects)
    return found


def _names(before: RunResult, after: RunResult) -> dict[str, str]:
    """Return what ``after`` calls the variants of ``before``, where it differs.

    A build that is judged alone is called as its directory, which may be another each
    time.
    """
    old, new = ({stage.variant for stage in run.stages} for run in (before, after))
    return dict(zip(old, new, strict=True)) if len(old) == len(new) == 1 else {}


def places(run: RunResult) -> frozenset[Place]:
    """Return the places in which ``run`` came to a verdict."""
    return judged((stage.stage, stage.variant, stage.status) for stage in run.stages)


def judged(stages: Iterable[tuple[Stage, str, Status]]) -> frozenset[Place]:
    """Return the places all of whose ``stages`` came to a verdict."""
    found, without = set[Place](), set[Place]()
    for stage, variant, status in stages:
        (found if status in VERDICTS else without).add((stage, variant))
    return frozenset(found - without)


def _changes(
    found: dict[str, list[_Sighting]], keys: Collection[str]
) -> tuple[Change, ...]:
    changes = [
        Change(
            found[key][0].finding,
            all(sighting.excused for sighting in found[key]),
            tuple(sorted({sighting.place[1] for sighting in found[key]})),
        )
        for key in keys
    ]
    return tuple(sorted(changes, key=lambda change: change.finding.order))
