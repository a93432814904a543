"""The benchmark measures what there is to measure."""

from __future__ import annotations

import pytest

from bench.bisect import pace
from harness.bisect.answer import Answer, Outcome
from harness.bisect.bisection import Bisection
from harness.bisect.question import Question
from harness.bisect.search import First
from harness.finding import Finding, Location

QUESTION = Question("/linux", "good", "c9", "native", "x.o", ("gcc",))
FINDING = Finding("text/step", Location("x.o", "x", 4), "wrong")


def _found(*answers: Answer) -> Bisection:
    return Bisection(QUESTION, FINDING, 0, answers, First("c1"))


def _answer(seconds: float, *, clean: bool = False) -> Answer:
    return Answer("c", Outcome.BAD, digest="d", seconds=seconds, clean=clean)


def test_the_pace_of_steps() -> None:
    """Neither of the ends nor of what was built clean; of few answers there is none."""
    ends = (_answer(60), _answer(50))

    measured = pace(_found(*ends, _answer(2), _answer(4), _answer(30, clean=True)))

    assert measured is not None
    assert (measured.steps, measured.kept_s) == (2, pytest.approx(3))
    for few in ((), ends[:1], ends, (_answer(30, clean=True), *ends)):
        assert pace(_found(*few)) is None
