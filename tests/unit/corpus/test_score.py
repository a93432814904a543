"""Recall per class, and the exit code that it gives."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from harness.corpus.classes import Zone
from harness.corpus.measure import Outcome, Wanted
from harness.corpus.mutant import Kind
from harness.corpus.score import Result, score
from harness.errors import ExitCode


def outcomes(
    name: str, found: int, excused: int = 0, missed: int = 0, none: int = 0
) -> list[Outcome]:
    """Return so many outcomes of each sort."""
    base = Outcome(Wanted(name, Zone.ALL, 0), "vmlinux: f")
    return [
        *[replace(base, rules=("text/step", "table/field"))] * found,
        *[replace(base, equivalent="unreachable")] * excused,
        *[base] * missed,
        *[replace(base, place="")] * none,
    ]


def result(*some: Outcome, alarms: tuple[str, ...] = (), unfinished: int = 0) -> Result:
    missed = tuple(one for one in some if one.missed)
    return Result((), 1.0, alarms, tuple(score(some)), missed, unfinished)


def test_equivalent_mutants_do_not_count() -> None:
    """Recall is over those that are wrong; what was not made is nothing."""
    (one,) = score(outcomes("orc/delete", found=3, excused=2, missed=1, none=5))

    assert (one.made, one.detected, one.recall) == (6, 3, 0.75)
    assert one.equivalent == {"unreachable": 2}
    assert one.detectors == {"text/step": 3, "table/field": 3}


def test_nothing_wrong_is_nothing_missed() -> None:
    """A class whose every mutant is equivalent has been found whole."""
    (one,) = score(outcomes("orc/repeat", found=0, excused=4))

    assert one.recall == 1.0
    assert one.met


@pytest.mark.parametrize(
    ("name", "found", "missed", "met"),
    [
        ("orc/type", 995, 5, True),
        ("orc/type", 994, 6, False),
        ("alternative/instrlen", 90, 10, True),
        ("alternative/instrlen", 89, 11, False),
        ("alternative/cpuid", 65, 35, True),
        ("alternative/cpuid", 64, 36, False),
        ("side/ex_table-drop", 0, 10, True),  # reported only
    ],
)
def test_what_is_asked_for_depends_on_the_kind(
    name: str, found: int, missed: int, met: bool
) -> None:
    """State, length and condition have thresholds of their own."""
    (one,) = score(outcomes(name, found, missed=missed))

    assert one.met is met


def test_classes_come_in_their_order() -> None:
    """Not in that of the outcomes."""
    some = outcomes("text/push", 1) + outcomes("orc/type", 1)

    assert [one.name for one in score(some)] == ["orc/type", "text/push"]
    assert score(some)[0].kind is Kind.STATE


@pytest.mark.parametrize(
    ("made", "code"),
    [
        (result(*outcomes("orc/type", 5)), ExitCode.CLEAN),
        (result(*outcomes("orc/type", 5, missed=1)), ExitCode.FINDINGS),
        (result(*outcomes("orc/type", 5), alarms=("k",)), ExitCode.FINDINGS),
        (
            result(*outcomes("orc/type", 5, missed=1), unfinished=1),
            ExitCode.INFRASTRUCTURE,
        ),
    ],
)
def test_exit_codes(made: Result, code: ExitCode) -> None:
    """A false alarm is as bad as a miss; not having finished is no verdict."""
    assert made.exit_code == code
