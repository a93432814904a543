"""Kconfig dependencies: three values, and words for what is unmet."""

from __future__ import annotations

import pytest

from harness.build.expression import parse

CONFIG = {"Y": "y", "M": "m", "N": "n", "NUMBER": "8", "WORD": '"text"'}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Y", 2),
        ("M", 1),
        ("N", 0),
        ("ABSENT", 0),
        ("!M", 1),
        ("!Y", 0),
        ("Y && M", 1),
        ("N || M", 1),
        ("N || Y && M", 1),
        ("(N || Y) && !N", 2),
        ("Y=y", 2),
        ("Y!=y", 0),
        ("M = m && Y", 2),
        ("NUMBER=8", 2),
        ("NUMBER=4", 0),
        ('WORD="text"', 2),
        ("y", 2),
        ("$(cc-option,-mfoo=$(bar))", 2),
        ("Y && $(success,test -e (x))", 2),
        ("GCC_VERSION >= 90100", 2),
    ],
)
def test_value(text, expected):
    """Expressions have the value that kconfig gives them."""
    assert parse(text).value(CONFIG) == expected


@pytest.mark.parametrize("text", ["", "Y &&", "(Y", "Y Y"])
def test_what_cannot_be_parsed_counts_as_met(text):
    """We never blame a dependency that we do not understand."""
    assert parse(text).value(CONFIG) == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Y", []),
        ("N && ABSENT && Y", ["N is not set", "ABSENT is not set"]),
        ("N || ABSENT", ["N is not set or ABSENT is not set"]),
        ("!Y", ["Y is set"]),
        ("NUMBER=4", ["(NUMBER = 4) does not hold"]),
    ],
)
def test_unmet(text, expected):
    """What keeps an expression at n is named, and nothing else."""
    assert parse(text).unmet(CONFIG) == expected
