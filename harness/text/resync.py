"""Resync: a sweep put right where it lost its way.

A linear sweep goes wrong at bytes that are no code and at instructions that the
decoder does not know. Where that shows, decoding goes on one instruction after the
other, until it meets the sweep again: at each place that the caller says an
instruction starts (function symbols), and at each gap.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from harness.elf.column import distinct
from harness.text.insn import I64, U8, InsnKind
from harness.text.length import LONGEST, measure

_WINDOW = 64
_STRIDE = _WINDOW + 16  # windows lie apart, so that none reads another's bytes
_NOP = 0x90

Bools = npt.NDArray[np.bool_]

UNKNOWN = 0xFF  # a kind: what :func:`harness.text.length.measure` must be asked about


class Sweep(Struct, frozen=True):
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

    def find(self, offset: I64) -> I64:
        """Return the row that starts at each of ``offset``, else -1."""
        if not len(self):
            return np.full(len(offset), -1, np.int64)
        at = np.minimum(np.searchsorted(self.offset, offset), len(self) - 1)
        return np.where(self.offset[at] == offset, at, -1)


def resync(
    sweep: Sweep,
    data: U8,
    parts: list[tuple[int, int]],
    known: I64,
    again: Callable[[U8], Sweep],
) -> Sweep:
    """Give gaps their length; put ``sweep`` in step at ``known``, and behind each gap.

    ``parts`` of ``data`` were swept; ``known`` are offsets, sorted; ``again`` sweeps
    other code. Where an instruction runs into a known start it is cut short there:
    it is none.
    """
    gaps = np.flatnonzero(sweep.kind == UNKNOWN)
    lost = known[sweep.find(known) < 0]
    lost = lost[_ends(parts, lost) > lost]  # none is needed inside skipped fill
    if not len(gaps) and not len(lost):
        return sweep
    over = np.searchsorted(sweep.offset, lost, side="right") - 1
    wrong = sweep.offset[distinct(np.concatenate([gaps, over]))]
    walk = _Walk(sweep, data, known, again)
    walk.look_ahead(lost)
    for at, end in zip(wrong.tolist(), _ends(parts, wrong).tolist(), strict=True):
        walk.go(at, end)
    return walk.merged()


def _ends(parts: list[tuple[int, int]], offset: I64) -> I64:
    """Return where the part ends that each of ``offset`` lies in, -1 for none."""
    if not parts:
        return np.full(len(offset), -1, np.int64)
    first, last = np.array(parts, np.int64).T
    at = np.searchsorted(first, offset, side="right") - 1
    end = last[np.maximum(at, 0)]
    return np.where((at >= 0) & (offset < end), end, -1)


class _Walk:
    """Steps through code beside a sweep of it, and what they found."""

    def __init__(
        self, sweep: Sweep, data: U8, known: I64, again: Callable[[U8], Sweep]
    ) -> None:
        self._sweep = sweep
        self._data = data
        self._known = known
        self._again = again
        self._seen: dict[int, tuple[int, int]] = {}
        self._found: list[tuple[int, int, int]] = []
        self._replaced = np.zeros(len(sweep), bool)
        self._done = 0

    def look_ahead(self, lost: I64) -> None:
        """Decode at ``lost`` and behind each gap, all in one go: it will be asked for."""
        gaps = self._sweep.offset[self._sweep.kind == UNKNOWN]
        behind = [at + self._measure(at, len(self._data))[0] for at in gaps.tolist()]
        wanted = distinct(np.concatenate([lost, np.array(behind, np.int64)]))
        wanted = wanted[wanted < len(self._data)]
        self._look(wanted[self._sweep.find(wanted) < 0])

    def go(self, at: int, end: int) -> None:
        """Decode from ``at`` on, up to where the sweep has a row too, or to ``end``."""
        if at < self._done:
            return
        first = int(np.searchsorted(self._sweep.offset, at))
        row = first
        while at < end:
            size, kind = self._one(at, row, end)
            known = int(np.searchsorted(self._known, at, side="right"))
            if known < len(self._known) and self._known[known] < at + size:
                size, kind = int(self._known[known]) - at, InsnKind.BAD
            self._found.append((at, size, kind))
            at += size
            row = int(np.searchsorted(self._sweep.offset, at))
            if row < len(self._sweep) and self._sweep.offset[row] == at:
                break
        self._replaced[first:row] = True
        self._done = at

    def merged(self) -> Sweep:
        """Return the sweep with what was found in place of what it contradicts."""
        offset, size, kind = np.array(self._found, np.int64).reshape(-1, 3).T
        old = self._sweep
        keep = ~self._replaced
        starts = np.concatenate([old.offset[keep], offset])
        order = np.argsort(starts, kind="stable")
        return Sweep(
            starts[order],
            np.concatenate([old.size[keep], size])[order],
            np.concatenate([old.kind[keep], kind.astype(np.uint8)])[order],
        )

    def _one(self, at: int, row: int, end: int) -> tuple[int, int]:
        """Return size and kind of what is at ``at``, which may be ``row``'s start."""
        sweep = self._sweep
        if row < len(sweep) and sweep.offset[row] == at:
            size, kind = int(sweep.size[row]), int(sweep.kind[row])
        else:
            if at not in self._seen:
                self._look(np.array([at], np.int64))
            size, kind = self._seen[at]
        if kind == UNKNOWN or at + size > end:
            size, kind = self._measure(at, end)
        return max(size, 1), kind

    def _measure(self, at: int, end: int) -> tuple[int, InsnKind]:
        return measure(self._data[at : min(at + LONGEST, end)].tobytes())

    def _look(self, wanted: I64) -> None:
        """Decode a window at each of ``wanted``."""
        padded = np.concatenate([self._data, np.full(_WINDOW, _NOP, np.uint8)])
        cells = np.full((len(wanted), _STRIDE), _NOP, np.uint8)
        cells[:, :_WINDOW] = padded[wanted[:, None] + np.arange(_WINDOW)]
        found = self._again(cells.reshape(-1))
        window, within = np.divmod(found.offset, _STRIDE)
        whole = within + found.size <= _WINDOW
        rows = zip(
            (wanted[window] + within)[whole].tolist(),
            found.size[whole].tolist(),
            found.kind[whole].tolist(),
            strict=True,
        )
        for offset, size, kind in rows:
            self._seen.setdefault(offset, (size, kind))
