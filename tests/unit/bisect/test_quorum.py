"""How often to look is decided by a rate that was measured and a confidence."""

from __future__ import annotations

import random

import pytest

from harness.bisect.quorum import MOST, ONE_LOOK, Quorum, rate_at_least


def test_what_always_shows_takes_one_look() -> None:
    """And leaves no doubt."""
    assert ONE_LOOK.runs(ONE_LOOK.of(1), goods=10) == 1
    assert ONE_LOOK.reached(1.0, [1] * 10) == 1.0


@pytest.mark.parametrize(
    ("rate", "goods", "runs"),
    # 0.5 ** 9 * 10 <= 0.02 < 0.5 ** 8 * 10, and so on
    [(0.5, 10, 9), (0.9, 10, 3), (0.1, 1, 38), (0.999, 1, 1)],
)
def test_how_many_looks_make_it_good(rate, goods, runs) -> None:
    """The least number with which all goods together reach the confidence."""
    quorum = Quorum(looks=0, confidence=0.98, rate=rate)

    assert quorum.runs(rate, goods) == runs
    assert quorum.reached(rate, [runs] * goods) >= 0.98 - 1e-12
    assert runs == 1 or quorum.reached(rate, [runs - 1] * goods) < 0.98


def test_a_rate_that_was_measured_takes_half_of_the_doubt() -> None:
    """What it takes to be sure of the rate is no longer there for the goods."""
    measured = Quorum(looks=10, confidence=0.95, rate=0)
    rate = measured.of(10)

    assert rate == pytest.approx(0.025 ** (1 / 10))
    runs = measured.runs(rate, 8)
    assert 0.95 <= measured.reached(rate, [runs] * 8) < 0.975
    assert measured.reached(rate, []) == pytest.approx(0.975)


def test_what_showed_once_in_many_takes_more_than_anybody_waits_for() -> None:
    """So that the search can say so."""
    quorum = Quorum(looks=50, confidence=0.99, rate=0)

    assert quorum.runs(quorum.of(1), 8) > MOST


@pytest.mark.parametrize(
    ("shown", "runs", "expected"),
    # one-sided Clopper-Pearson at 95 %: of n in n it is 0.05 ** (1 / n)
    [(10, 10, 0.05 ** (1 / 10)), (1, 1, 0.05), (5, 10, 0.2224), (0, 10, 0.0)],
)
def test_the_rate_that_is_proved(shown, runs, expected) -> None:
    """It is known from below, and never from none."""
    assert rate_at_least(shown, runs, 0.95) == pytest.approx(expected, abs=1e-4)


def test_the_whole_promise() -> None:
    """Over many made-up bisections it is wrong no more often than is stated."""
    chance, wrong, tries = random.Random(1), 0, 2000
    quorum = Quorum(looks=10, confidence=0.9, rate=0)
    true_rate = 0.6
    for _ in range(tries):
        shown = sum(chance.random() < true_rate for _ in range(quorum.looks))
        if not shown:
            continue
        runs = quorum.runs(quorum.of(shown), 4)
        missed = (1 - true_rate) ** runs
        wrong += any(chance.random() < missed for _ in range(4))

    assert wrong / tries <= 0.1
