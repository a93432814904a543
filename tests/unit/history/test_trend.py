"""Numbers over runs: whose verdict stands, and none other."""

from __future__ import annotations

from itertools import chain

import pytest

from harness.history.trend import (
    COVERAGE,
    KNOWN,
    NEW,
    SECONDS,
    Trend,
    coverage,
    measured,
    sparkline,
    trends,
)
from harness.result import Stage, StageResult, Status
from tests.builders.results import finding, run, stage


def of(*stages: StageResult) -> dict[str, Trend]:
    runs = [run(each) for each in stages]
    found = trends(chain(*map(measured, runs)))
    return {trend.name: trend for trend in found}


def test_numbers_of_a_stage() -> None:
    """Counts, time, findings and coverage; a number may begin late."""
    found = of(
        stage(finding(), seconds=1.0, counts={"sites": 5}),
        stage(known=(finding(),), seconds=2.0, counts={"sites": 5, "defined": 4}),
    )

    values = {name: trend.values for name, trend in found.items()}
    assert values == {
        SECONDS: (1.0, 2.0),
        NEW: (1, 0),
        KNOWN: (0, 1),
        COVERAGE: (100.0,),
        "sites": (5, 5),
        "defined": (4,),
    }
    assert [name for name, trend in found.items() if trend.moved] == [
        SECONDS,
        NEW,
        KNOWN,
    ]


@pytest.mark.parametrize("status", [Status.ERROR, Status.MISS, Status.SKIP])
def test_without_a_verdict_there_is_no_point(status: Status) -> None:
    """A boot that ended after a second is not a fast one."""
    found = of(stage(seconds=60.0), stage(seconds=1.0, status=status))

    assert found[SECONDS].values == (60.0,)


def test_variants_and_stages_are_apart() -> None:
    """The same number of another variant or stage is another trend."""
    one = run(stage(variant="kvm"), stage(), stage(of=Stage.BOOT))

    found = [t for t in trends(measured(one)) if t.name == NEW]

    assert [(t.variant, t.stage) for t in found] == [
        ("kvm", Stage.VALIDATE),
        ("xen", Stage.VALIDATE),
        ("xen", Stage.BOOT),
    ]
    assert {t.points[0].run_id for t in found} == {one.run_id}


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({}, None),
        ({"defined": 80, "blind": 20}, 80.0),
        ({"defined": 80, "unreached": 30, "blind": 20}, 50.0),
    ],
)
def test_coverage(counts: dict[str, int], expected: float | None) -> None:
    """What has a state and an edge to it, of all that may run."""
    assert coverage(counts) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [((), ""), ((3, 3), "▁▁"), ((0, 1, 2, 7), "▁▂▃█"), ((-1.0, 1.0), "▁█")],
)
def test_sparkline(values: tuple[float, ...], expected: str) -> None:
    """The lowest is low, the highest high."""
    assert sparkline(values) == expected
