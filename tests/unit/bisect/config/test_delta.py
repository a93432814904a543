"""What differs between two configurations, and one made partly of the other."""

from __future__ import annotations

import pytest

from harness.bisect.config.delta import Delta, applied, deltas
from harness.kconfig import parse_config

GOOD = {"A": "y", "B": "n", "CHOICE_1": "y", "CHOICE_2": "n", "N": "8", "SAME": "m"}
BAD = {"B": "m", "CHOICE_1": "n", "CHOICE_2": "y", "NEW": "n", "S": '"s"', "SAME": "m"}


def test_what_differs() -> None:
    """What only comes to be off stands first: it can make nothing alone."""
    assert deltas(GOOD, BAD) == (
        Delta("NEW", None, "n"),
        Delta("B", "n", "m"),
        Delta("CHOICE_1", "y", "n"),
        Delta("CHOICE_2", "n", "y"),
        Delta("S", None, '"s"'),
        Delta("A", "y", None),
        Delta("N", "8", None),
    )
    assert deltas(GOOD, GOOD) == ()


def test_all_of_it_is_the_other() -> None:
    """But for what the other does not have: a bool is off, and a number is default."""
    made = parse_config(applied(GOOD, deltas(GOOD, BAD), {*GOOD, *BAD}))

    assert made == {**BAD, "A": "n"}


def test_what_is_chosen_stands_last() -> None:
    """Of a choice kconfig takes the last y."""
    text = applied(GOOD, deltas(GOOD, BAD), {"CHOICE_2"})

    assert text.splitlines()[-1] == "CONFIG_CHOICE_2=y"
    assert parse_config(text) == {**GOOD, "CHOICE_2": "y"}


def test_the_way_back() -> None:
    """The reversed deltas make the good one of the bad one."""
    back = [delta.reversed for delta in deltas(GOOD, BAD)]

    made = parse_config(applied(BAD, back, {*GOOD, *BAD}))

    assert made == {**GOOD, "NEW": "n"}


@pytest.mark.parametrize(
    ("delta", "text"),
    [
        (Delta("X", None, "y"), "CONFIG_X=y (was absent)"),
        (Delta("X", "y", None), "# CONFIG_X is not set (was y)"),
        (Delta("X", "8", None), "# CONFIG_X is absent (was 8)"),
    ],
)
def test_for_people(delta, text) -> None:
    """The line of a .config, and what was there."""
    assert str(delta) == text
