"""Column: what is done with columns of numbers and records everywhere.

Their different values, which of them another has, several as one, one in pieces.
``np.unique`` and ``np.isin`` hash what they are given; addresses, which are nearly in
order, are sorted several times as fast, and most columns are in order already.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T", bound=np.generic)

_MANY = 8  # times as many, and fewer are looked for first
_LONG = 32  # rows of a run, so that merging is faster than sorting anew
_PIECE = 1 << 15  # rows


def ascending(values: npt.NDArray[T]) -> npt.NDArray[T]:
    """Return ``values`` sorted: themselves, if they are; runs of them are merged."""
    behind: Any = values[1:]
    runs = int(np.count_nonzero(values[:-1] > behind))
    if not runs:
        return values
    return np.sort(values, kind="stable" if runs * _LONG < len(values) else None)


def distinct(values: npt.NDArray[T]) -> npt.NDArray[T]:
    """Return each of ``values`` once, ascending."""
    ordered = ascending(values)
    first = np.ones(len(ordered), bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return ordered[first]


def among(values: npt.NDArray[T], wanted: npt.NDArray[T]) -> npt.NDArray[np.bool_]:
    """Tell which of ``values`` are in ``wanted``, which may be in any order.

    Where ``wanted`` lie close together most values are out of the question at once.
    """
    if len(wanted) > _MANY * len(values):
        wanted = wanted[among(wanted, values)]
    if not len(wanted):
        return np.zeros(len(values), bool)
    ordered = ascending(wanted)
    found = np.asarray((values >= ordered[0]) & (values <= ordered[-1]))
    near = values[found]
    found[found] = ordered[np.searchsorted(ordered, near)] == near
    return found


def joined(
    parts: Iterable[npt.NDArray[np.void]], layout: np.dtype[np.void]
) -> npt.NDArray[np.void]:
    """Return the records of ``parts``, all of one ``layout``, as one.

    Parts lie in one piece each; the whole may be changed. ``np.concatenate`` compares
    the fields of every part one by one.
    """
    return np.frombuffer(bytearray().join(part.data for part in parts), layout)


def pieces(count: int, size: int = _PIECE) -> Iterator[slice]:
    """Cut ``count`` rows into pieces that stay in a cache while they are worked on.

    What is made on the way is small, so that its memory is used again and again: of
    whole columns of a kernel each page would have to be taken from the system.
    """
    for first in range(0, count, size):
        yield slice(first, first + size)
