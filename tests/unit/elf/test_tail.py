"""The fill at the end of code is found as a regular expression finds it."""

from __future__ import annotations

import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from harness.elf.tail import LONGEST, tails

FILL = re.compile(
    rb"(?:\xcc|[\x66\x2e]*\x90|[\x66\x2e]*\x0f\x1f"
    rb"(?:\x00|\x40\x00|\x44\x00\x00|\x80\x00{4}|\x84\x00{5}))+\Z"
)
PARTS = [
    bytes.fromhex(part)
    for part in (
        *("cc", "90", "6690", "662e0f1f8400", "0f1f00", "0f1f4000", "0f1f440000"),
        *(
            "0f1f8000000000",
            "0f1f840000000000",
            "66",
            "2e",
            "0f",
            "1f",
            "00",
            "c3",
            "44",
        ),
    )
]
CODE = st.lists(st.sampled_from(PARTS), max_size=30).map(b"".join)


def by_expression(code: bytes) -> int:
    found = FILL.search(code[-LONGEST:])
    return len(found[0]) if found else 0


@given(st.lists(CODE, min_size=1, max_size=5))
def test_it_is_what_a_regular_expression_finds(codes: list[bytes]) -> None:
    """Whatever lies before, and whatever the neighbours are."""
    ends = np.cumsum([len(code) for code in codes])
    starts = ends - [len(code) for code in codes]
    data = np.frombuffer(b"".join(codes) + b"\xcc", np.uint8)

    found = tails(data, starts, ends)

    assert found.tolist() == [by_expression(code) for code in codes]


def test_none_of_nothing() -> None:
    """There may be no symbols, or empty ones, at the very start of a section."""
    nothing = np.zeros(0, np.int64)
    assert tails(np.zeros(4, np.uint8), nothing, nothing).tolist() == []
    start = np.zeros(1, np.int64)
    assert tails(np.full(4, 0x90, np.uint8), start, start).tolist() == [0]


def test_it_is_as_long_as_is_looked_for() -> None:
    """A kilobyte of it counts as LONGEST bytes."""
    data = np.full(1024, 0xCC, np.uint8)
    assert tails(data, np.array([0]), np.array([1024])).tolist() == [LONGEST]
