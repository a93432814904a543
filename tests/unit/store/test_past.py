"""What the last runs were: in a list, as numbers, and the last good one."""

from __future__ import annotations

import itertools

import pytest
from msgspec.structs import replace

from harness.history.summary import summary
from harness.history.trend import measured
from harness.result import RunResult, Stage, Status
from harness.store import past, runs
from harness.store.database import Database
from tests.builders.results import finding, run, stage

A = finding("a")
BUILT = stage(of=Stage.BUILD)


def test_recent(database: Database) -> None:
    """The newest, oldest first, each as its own summary."""
    saved = [
        run(
            stage(finding(), finding("g"), known=(finding("k"),)),
            stage(finding(), variant="kvm", known=(finding("k"),)),
        ),
        run(stage(finding()), stage(of=Stage.BOOT, status=Status.MISS)),
        run(stage(of=Stage.BOOT, status=Status.MISS, variant="tdx"), profile="full"),
    ]
    for each in (saved[1], saved[0], saved[2]):  # by time, not as they were saved
        runs.save(database, each)

    def ids(*args: int, **kwargs: str) -> list[str]:
        return [each.run_id for each in past.recent(database, *args, **kwargs)]

    assert past.recent(database, 10) == tuple(map(summary, saved))
    assert [each.stages for each in past.recent(database, 10)] == [2, 2, 0]
    assert [each.new for each in past.recent(database, 10)] == [2, 1, 0]
    assert ids(2) == [each.run_id for each in saved[1:]]
    assert ids(9, key=finding("g").key) == [saved[0].run_id]
    assert ids(9, key=finding("k").key) == [saved[0].run_id]
    assert ids(9, profile="full") == [saved[2].run_id]
    assert ids(9, until=saved[1].run_id) == [saved[0].run_id, saved[1].run_id]
    assert ids(9, until="nowhere") == []


def test_runs_of_one_second(database: Database) -> None:
    """They are in the order in which they were saved: the later one is no past."""
    first = run(stage())
    second, third = (replace(run(stage()), started=first.started) for _ in range(2))
    for each in (first, second, third):
        runs.save(database, each)

    found = past.recent(database, 9, until=second.run_id)

    assert [each.run_id for each in found] == [first.run_id, second.run_id]


def test_measurements(database: Database) -> None:
    """Those of a run are what its result says, in the order that was asked for."""
    saved = [
        run(
            stage(A, known=(finding("k"),), counts={"z": 1, "a": 2}, seconds=2.5),
            stage(of=Stage.BOOT, status=Status.MISS),
        ),
        run(stage(counts={"a": 3})),
    ]
    for each in reversed(saved):
        runs.save(database, each)

    found = past.measurements(database, past.recent(database, 10))

    assert found == tuple(itertools.chain(*map(measured, saved)))


@pytest.mark.parametrize(
    ("earlier", "good"),
    [
        (run(BUILT, stage()), True),
        (run(BUILT, stage(known=(A,)), stage(variant="kvm")), True),
        (run(BUILT, stage(), tree="linux-source-6.12 6.12.1-1"), True),
        (run(BUILT, stage(A)), False),
        (run(BUILT, stage(), stage(of=Stage.BOOT, status=Status.ERROR)), False),
        (run(BUILT, stage(status=Status.SKIP)), False),
        (run(BUILT, stage(variant="kvm")), False),
        (run(BUILT, stage(), profile="full"), False),
        (run(BUILT, stage(), tree="linux-source-6.1 6.1.170-1"), False),
        (run(BUILT, stage(), tree="linux-source-6.12x 6.12.1-1"), False),
        (run(BUILT, stage(), tree="/linux-source-6.12 6.12.90-1"), False),
    ],
)
def test_good(database: Database, earlier: RunResult, good: bool) -> None:
    """Clean, of the same tree and profile, and judged wherever this one is."""
    runs.save(database, earlier)

    found = past.last_good(database, run(BUILT, stage(A)))

    assert found == (earlier if good else None)


def test_the_last_good_one(database: Database) -> None:
    """Later ones that are not good are passed over, as is the run itself."""
    old, last, bad, now = (run(stage()), run(stage()), run(stage(A)), run(stage()))
    for each in (last, old, bad, now):
        runs.save(database, each)

    assert past.last_good(database, now) == last


def test_the_one_before(database: Database) -> None:
    """Whatever it found; not of something else, of less, or later."""
    last = run(BUILT, stage(A))
    others = [
        run(BUILT, stage(), profile="full"),
        run(BUILT, stage(), tree="linux-source-6.1 6.1.170-1"),
        run(BUILT, stage(variant="kvm")),
        run(BUILT, stage(status=Status.SKIP)),
    ]
    now, later = run(BUILT, stage()), run(BUILT, stage())
    for each in (last, *others, now, later):
        runs.save(database, each)

    assert past.before(database, last) is None
    assert past.before(database, now) == last
    assert past.before(database, later) == now


def test_a_path_may_have_spaces(database: Database) -> None:
    """Only behind a name there is a version."""
    ours, theirs = (
        run(BUILT, stage(), tree=f"/home/me/my {name}") for name in ("linux", "other")
    )
    for each in (ours, theirs):
        runs.save(database, each)

    assert past.last_good(database, replace(ours, run_id="now")) == ours


def test_what_was_validated_may_have_moved(database: Database) -> None:
    """CI has another directory every night; where it has not, that is the one."""
    here, there = (
        run(stage(), profile="validate", tree=f"/builds/{number}/linux")
        for number in (1, 2)
    )
    for each in (here, there):
        runs.save(database, each)

    def base(tree: str) -> RunResult | None:
        return past.last_good(database, replace(here, run_id="now", tree=tree))

    assert base("/builds/1/linux") == here
    assert base("/builds/3/linux") == there
