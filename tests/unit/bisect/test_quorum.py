"""How often to look is decided by a rate that was proved and a confidence."""

from __future__ import annotations

import math

import pytest

from harness.bisect.quorum import Quorum, per_answer, rate_at_least


@pytest.mark.parametrize(
    ("rate", "confidence", "runs"),
    [(1.0, 0.99, 1), (0.5, 0.99, 7), (0.9, 0.99, 2), (0.1, 0.95, 29)],
)
def test_how_many_looks_make_it_good(rate, confidence, runs) -> None:
    """The least number that reaches the confidence."""
    quorum = Quorum(rate, confidence)

    assert quorum.runs == runs
    assert quorum.confidence_of(runs) >= confidence - 1e-12
    assert runs == 1 or quorum.confidence_of(runs - 1) < confidence


def test_a_whole_bisection_holds_with_the_confidence() -> None:
    """Every answer has to be better than all together."""
    assert per_answer(0.99, 10) ** 10 == pytest.approx(0.99)
    assert per_answer(0.99, 0) == 0.99


@pytest.mark.parametrize(
    ("shown", "runs", "expected"),
    # one-sided Clopper-Pearson at 95 %: of n in n it is 0.05 ** (1 / n)
    [(10, 10, 0.05 ** (1 / 10)), (1, 1, 0.05), (5, 10, 0.2224), (0, 10, 0.0)],
)
def test_the_rate_that_is_proved(shown, runs, expected) -> None:
    """It is known from below, and never from none."""
    assert rate_at_least(shown, runs, 0.95) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("true_rate", [0.1, 0.3, 0.5])
def test_the_rate_is_rarely_overrated(true_rate) -> None:
    """Of all bisections of a kernel that shows it so often, one in twenty at most."""
    overrated = sum(
        math.comb(20, shown) * true_rate**shown * (1 - true_rate) ** (20 - shown)
        for shown in range(21)
        if rate_at_least(shown, 20, 0.95) > true_rate
    )

    assert 0 < overrated <= 0.05
