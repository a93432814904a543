"""The different values of a column, and which of them another has."""

from __future__ import annotations

import numpy as np
import pytest

from harness.elf.column import among, distinct


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
