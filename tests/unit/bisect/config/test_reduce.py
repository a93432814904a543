"""The fewest options that make a finding, whatever they do together."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.bisect.answer import Outcome
from harness.bisect.config.reduce import Unit, reduce

MANY = [f"O{number}" for number in range(100)]
Tell = Callable[[frozenset[str]], Outcome]


def _asked(symbols: list[str], tell: Tell) -> tuple[tuple[Unit, ...], int]:
    """Return the units, and how many different questions it took."""
    asked = set()
    search = reduce(symbols)
    question = next(search)
    while True:
        asked.add(question)
        try:
            question = search.send(tell(question))
        except StopIteration as done:
            return done.value, len(asked)


def _needs(*wanted: str) -> Tell:
    return lambda chosen: Outcome.BAD if {*wanted} <= chosen else Outcome.GOOD


@pytest.mark.parametrize("wanted", ["O0", "O63", "O99"])
def test_one_option_takes_a_logarithm(wanted) -> None:
    """Seven questions for a hundred, and one whether it is bad alone."""
    units, asked = _asked(MANY, _needs(wanted))

    assert units == ((wanted,),)
    assert asked <= 8


def test_options_that_make_it_together() -> None:
    """Each of them costs a logarithm; none is lost, and none is added."""
    units, asked = _asked(MANY, _needs("O3", "O50", "O97"))

    assert sorted(units) == [("O3",), ("O50",), ("O97",)]
    assert asked <= 3 * 8 + 3


def test_either_of_two_is_enough() -> None:
    """One is told; what it takes is one."""
    units, _ = _asked(
        MANY, lambda c: Outcome.BAD if {"O3", "O50"} & c else Outcome.GOOD
    )

    assert units == (("O3",),)


def test_what_hides_it_is_not_needed() -> None:
    """An option that stops it stands before one that makes up for that."""

    def tell(chosen: frozenset[str]) -> Outcome:
        hidden = "O10" in chosen and "O20" not in chosen
        return Outcome.BAD if "O5" in chosen and not hidden else Outcome.GOOD

    units, _ = _asked(MANY[:30], tell)

    assert units in ((("O5",),), (("O20",), ("O5",)))
    assert tell(frozenset(s for unit in units for s in unit)) is Outcome.BAD


def test_what_cannot_be_told_apart() -> None:
    """O4 without O5 does not build, so nobody can tell which of the two it is."""

    def tell(chosen: frozenset[str]) -> Outcome:
        if ("O4" in chosen) != ("O5" in chosen):
            return Outcome.SKIP
        return Outcome.BAD if "O5" in chosen else Outcome.GOOD

    units, _ = _asked(MANY, tell)

    assert units == (("O4", "O5"),)


@given(data=st.data())
def test_the_promise(data) -> None:
    """Of any outcomes: it is bad, and without any one unit it is not."""
    symbols = MANY[: data.draw(st.integers(1, 8))]
    everything = frozenset(symbols)
    told = {frozenset(): Outcome.GOOD, everything: Outcome.BAD}

    def tell(chosen: frozenset[str]) -> Outcome:
        if chosen not in told:
            told[chosen] = data.draw(st.sampled_from(Outcome))
        return told[chosen]

    units, _ = _asked(symbols, tell)

    all_of_it = frozenset(s for unit in units for s in unit)
    assert units
    assert told[all_of_it] is Outcome.BAD
    for unit in units:
        assert tell(all_of_it - {*unit}) is not Outcome.BAD
