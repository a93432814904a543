"""The different values of a column, and which of them another has."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.elf.column import among, ascending, distinct, joined, pieces


@pytest.mark.parametrize("values", [[], [7], [3, 1, 3, 2, 1], [5, 5, 5]])
def test_each_value_once_in_order(values: list[int]) -> None:
    """Every value comes once, ascending, in the type that it had."""
    found = distinct(np.array(values, np.uint64))
    assert found.tolist() == sorted(set(values))
    assert found.dtype == np.uint64


@pytest.mark.parametrize("wanted", [[], [4], [9, 2, 4, 4], [0, 1 << 63]])
def test_membership(wanted: list[int]) -> None:
    """A value is told to be there exactly if it is, whatever the order."""
    values = [4, 0, 9, 5, 4, 1 << 63, (1 << 64) - 1]
    found = among(np.array(values, np.uint64), np.array(wanted, np.uint64))
    assert found.tolist() == [value in wanted for value in values]


@given(st.lists(st.integers(0, 300)), st.lists(st.integers(0, 300), max_size=3))
def test_membership_of_few_in_many(many: list[int], few: list[int]) -> None:
    """Which of the two is the longer one changes nothing."""
    long, short = np.array(many, np.int64), np.array(few, np.int64)
    assert among(short, long).tolist() == [value in many for value in few]
    assert among(long, short).tolist() == [value in few for value in many]


@given(st.lists(st.lists(st.integers(0, (1 << 64) - 1), min_size=40), max_size=4))
def test_runs_are_merged(runs: list[list[int]]) -> None:
    """Runs, of which few make a column, and values in any order are sorted alike."""
    for values in ([*chain(*map(sorted, runs))], [*chain(*runs)]):
        assert ascending(np.array(values, np.uint64)).tolist() == sorted(values)


def test_what_is_in_order_is_not_copied() -> None:
    """Sorting what is sorted takes no memory."""
    values = np.arange(9)
    assert ascending(values) is values


def test_records_one_after_the_other() -> None:
    """All records come, in the order of the parts, and may be written to."""
    layout = np.dtype([("a", "<u4"), ("b", "u1")])
    parts = [np.array([(1, 2), (3, 4)], layout), np.zeros(0, layout)]
    parts.append(np.array([(5, 6)], layout))
    found = joined(parts, layout)
    assert found.tolist() == [(1, 2), (3, 4), (5, 6)]
    found["a"] += 1
    assert parts[0]["a"].tolist() == [1, 3]
    assert len(joined([], layout)) == 0


@pytest.mark.parametrize("count", [0, 1, 5, 6, 7])
def test_pieces_are_the_whole(count: int) -> None:
    """Every row is in one piece, and none is empty."""
    rows = range(count)
    cut = [list(rows[some]) for some in pieces(count, 3)]
    assert [*chain(*cut)] == list(rows)
    assert all(cut)
