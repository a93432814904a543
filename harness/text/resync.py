"""Resync: a sweep put right where it lost its way.

A linear sweep goes wrong at bytes that are no code and at instructions that the
decoder does not know. It is put right where that shows: at each place that the
caller says an instruction starts (function symbols), and behind each gap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.errors import InfraError
from harness.text.fill import FILL
from harness.text.insn import I64, U8, InsnKind
from harness.text.length import LONGEST, measure

_WINDOW = 64
_STRIDE = _WINDOW + 16  # windows lie apart, so that none reads another's bytes
_ROUNDS = 1000
_NOP = 0x90

Bools = npt.NDArray[np.bool_]

UNKNOWN = 0xFF  # a kind: what :func:`harness.text.length.measure` must be asked about


@dataclass(frozen=True, slots=True)
class Sweep:
    """What a linear sweep over some code found, in order.

    Attributes:
        offset: i64[n] into the code.
        size: i64[n] bytes.
        kind: u8[n], an InsnKind each, or UNKNOWN.
    """

    offset: I64
    size: I64
    kind: U8

    def __len__(self) -> int:
        return len(self.offset)

    def where(self, rows: Bools | I64) -> Sweep:
        """Return those at ``rows``."""
        return Sweep(self.offset[rows], self.size[rows], self.kind[rows])


def resync(sweep: Sweep, data: U8, known: I64, again: Callable[[U8], Sweep]) -> Sweep:
    """Give gaps their length; put ``sweep`` in step at ``known``, and behind each.

    ``known`` are offsets into ``data``, sorted; ``again`` sweeps other code. Where a
    row runs into a known start it is cut short there: it is no instruction.
    """
    for _ in range(_ROUNDS):
        sweep, after = _measure_gaps(data, sweep)
        if len(after):
            known = np.union1d(known, after[after < len(data)])
        lost = known[~_member(known, sweep.offset)]
        # a start inside skipped fill needs no instruction there
        lost = lost[~_in_fill(lost, sweep, data)]
        if not len(lost):
            return sweep
        sweep, reached = _splice(sweep, *_windows(data, lost, again))
        known = np.union1d(known, reached[reached < len(data)])
    raise InfraError(f"decoding is not in step after {_ROUNDS} rounds")


def _member(wanted: I64, have: I64) -> Bools:
    if not len(have):
        return np.zeros(len(wanted), bool)
    at = np.minimum(np.searchsorted(have, wanted), len(have) - 1)
    return np.asarray(have[at] == wanted)


def _in_fill(lost: I64, sweep: Sweep, data: U8) -> Bools:
    if not len(sweep):
        return np.ones(len(lost), bool)
    at = np.maximum(np.searchsorted(sweep.offset, lost, side="right") - 1, 0)
    outside = lost >= sweep.offset[at] + sweep.size[at]
    return np.asarray(outside & np.isin(data[lost], FILL))


def _measure_gaps(data: U8, sweep: Sweep) -> tuple[Sweep, I64]:
    """Give each gap its true length and kind; return also the offsets where they end."""
    unknown = np.flatnonzero(sweep.kind == UNKNOWN)
    if not len(unknown):
        return sweep, np.zeros(0, np.int64)
    size, kind = sweep.size.copy(), sweep.kind.copy()
    inside = np.zeros(len(sweep), bool)
    after = []
    for row in unknown.tolist():
        offset = int(sweep.offset[row])
        length, kind[row] = measure(data[offset : offset + LONGEST].tobytes())
        if length and not inside[row]:
            size[row] = length
            after.append(offset + length)
            behind = np.searchsorted(sweep.offset, offset + length)
            inside[row + 1 : behind] = True
    measured = Sweep(sweep.offset, size, kind).where(~inside)
    return measured, np.unique(np.array(after, np.int64))


def _windows(data: U8, lost: I64, again: Callable[[U8], Sweep]) -> tuple[Sweep, I64]:
    """Decode a window at each of ``lost``, all in one go; return rows and windows."""
    padded = np.concatenate([data, np.full(_WINDOW, _NOP, np.uint8)])
    cells = np.full((len(lost), _STRIDE), _NOP, np.uint8)
    cells[:, :_WINDOW] = padded[lost[:, None] + np.arange(_WINDOW)]
    found = again(cells.reshape(-1))
    window, within = np.divmod(found.offset, _STRIDE)
    keep = (within + found.size <= _WINDOW) & (lost[window] + within < len(data))
    window = window[keep]
    return Sweep(
        lost[window] + within[keep], found.size[keep], found.kind[keep]
    ), window


def _splice(sweep: Sweep, fresh: Sweep, window: I64) -> tuple[Sweep, I64]:
    """Put ``fresh`` rows in place of what they contradict, up to where both agree.

    Returns also the offsets at which a window ended before it agreed.
    """
    agrees = _member(fresh.offset, sweep.offset)
    count = int(window.max()) + 1 if len(window) else 0
    # rows of a window before its first row that the sweep has too
    first_agree = np.full(count, len(fresh), np.int64)
    numbers = np.arange(len(fresh), dtype=np.int64)
    np.minimum.at(first_agree, window[agrees], numbers[agrees])
    keep = numbers < first_agree[window]
    begin = np.full(count, np.iinfo(np.int64).max, np.int64)
    np.minimum.at(begin, window, fresh.offset)
    end = np.zeros(count, np.int64)
    np.maximum.at(end, window[keep], (fresh.offset + fresh.size)[keep])
    used = end > 0
    begin, end = begin[used], end[used]
    reach = np.maximum.accumulate(end)
    at = np.searchsorted(begin, sweep.offset, side="right") - 1
    killed = (at >= 0) & (sweep.offset < reach[np.maximum(at, 0)])
    old, new = sweep.where(~killed), fresh.where(keep)
    offset = np.concatenate([old.offset, new.offset])
    order = np.unique(offset, return_index=True)[1].astype(np.int64)
    merged = Sweep(
        offset,
        np.concatenate([old.size, new.size]),
        np.concatenate([old.kind, new.kind]),
    )
    return _clip(merged.where(order)), np.unique(end)


def _clip(sweep: Sweep) -> Sweep:
    """Make no row reach over the next: what was cut short is no instruction."""
    size, kind = sweep.size.copy(), sweep.kind.copy()
    over = np.flatnonzero(sweep.offset[:-1] + size[:-1] > sweep.offset[1:])
    size[over] = sweep.offset[over + 1] - sweep.offset[over]
    kind[over] = InsnKind.BAD
    return Sweep(sweep.offset, size, kind)
