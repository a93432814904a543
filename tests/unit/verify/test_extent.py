"""Which function an address lies in."""

from __future__ import annotations

import numpy as np

from harness.verify.extent import holding


def test_which_range_holds_an_address() -> None:
    """None where there is none, or behind its end."""
    start, end = np.array([4, 16], np.uint64), np.array([8, 20], np.uint64)
    addresses = np.array([0, 4, 7, 8, 19, 20], np.uint64)

    assert holding(start, end, addresses).tolist() == [-1, 0, 0, -1, 1, -1]
    none = np.array([], np.uint64)
    assert holding(none, none, addresses).tolist() == [-1] * 6
