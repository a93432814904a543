"""Column: the different values of one, and which of them another has.

``np.unique`` and ``np.isin`` hash what they are given; addresses, which are nearly in
order, are sorted several times as fast.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T", bound=np.generic)


def distinct(values: npt.NDArray[T]) -> npt.NDArray[T]:
    """Return each of ``values`` once, ascending."""
    ordered: npt.NDArray[T] = np.sort(values)
    first = np.ones(len(ordered), bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return ordered[first]


def among(values: npt.NDArray[T], wanted: npt.NDArray[T]) -> npt.NDArray[np.bool_]:
    """Tell which of ``values`` are in ``wanted``, which may be in any order.

    Where ``wanted`` lie close together most values are out of the question at once.
    """
    if not len(wanted):
        return np.zeros(len(values), bool)
    ordered = np.sort(wanted)
    found = np.asarray((values >= ordered[0]) & (values <= ordered[-1]))
    near = values[found]
    found[found] = ordered[np.searchsorted(ordered, near)] == near
    return found
