"""Code: the bytes of instructions, read where they lie when somebody asks.

Few of a kernel's instructions are ever looked at by their bytes, and 16 bytes for each
would be most of what is known of them.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from msgspec import Struct

CODE_BYTES = 16  # the longest x86 instruction has 15

_U64 = npt.NDArray[np.uint64]
_U8 = npt.NDArray[np.uint8]
_Rows = npt.NDArray[np.int64] | npt.NDArray[np.bool_] | slice

_CELL = np.dtype((np.void, CODE_BYTES))
_FEW = 16  # texts, of which each is asked apart


class Code(Struct, frozen=True):
    """The bytes of n instructions.

    Attributes:
        place: u64[n], where each begins, in the order of ``base``.
        base: u64[t], ascending, where each text begins.
        texts: t times u8, the code that they lie in.
    """

    place: _U64
    base: _U64
    texts: tuple[_U8, ...]

    def __len__(self) -> int:
        return len(self.place)

    def __getitem__(self, rows: _Rows) -> _U8:
        """Return u8[k, 16], the bytes from the start of each of ``rows``.

        Beyond its end are those that follow, or zeros.
        """
        place = self.place[rows]
        found = np.zeros(len(place), _CELL)
        if len(self.texts) == 1:
            _read(self.texts[0], place - self.base[0], found)
        elif len(place):
            text = np.searchsorted(self.base, place, side="right") - 1
            for each in np.flatnonzero(np.bincount(text)).tolist():
                here = np.flatnonzero(text == each)
                some = np.zeros(len(here), _CELL)
                _read(self.texts[each], place[here] - self.base[each], some)
                found[here] = some
        return found.view(np.uint8).reshape(-1, CODE_BYTES)

    def words(self, rows: _Rows) -> _U64:
        """Return u64[k], the first eight bytes of each of ``rows``, little endian."""
        return self[rows].view("<u8")[:, 0]

    def one(self, row: int, size: int) -> bytes:
        """Return the first ``size`` bytes of one instruction."""
        place = self.place.item(row)
        text = bisect.bisect_right(self.base, place) - 1
        first = place - self.base.item(text)
        return self.texts[text][first : first + size].tobytes()

    def take(self, rows: _Rows) -> Code:
        """Return those of ``rows``."""
        return Code(self.place[rows], self.base, self.texts)


def _read(text: _U8, place: _U64, found: npt.NDArray[np.void]) -> None:
    """Copy 16 bytes from each ``place`` of ``text``; what lies behind it stays zero."""
    offset = place.view(np.int64)
    whole = len(text) - CODE_BYTES + 1
    over = np.flatnonzero(offset >= whole)
    if whole > 0:
        # a cell starts at each byte, so that one of 16 bytes is copied at once
        flat = np.ascontiguousarray(text)
        cells: npt.NDArray[np.void] = np.ndarray(whole, _CELL, flat, strides=(1,))
        found[:] = cells[np.minimum(offset, whole - 1) if len(over) else offset]
    for at in over.tolist():
        rest = text[int(offset[at]) :].tobytes()
        found[at] = np.void(rest.ljust(CODE_BYTES, b"\0"))


def code_of(place: _U64, texts: Sequence[tuple[_U8, int]]) -> Code:
    """Return the code of instructions at ``place``, in ``texts`` at their addresses.

    ``place`` ascends. Many texts become one: to ask each for few instructions takes longer.
    """
    ordered = sorted(texts, key=lambda text: text[1])
    base = np.array([address for _, address in ordered], np.uint64)
    data = tuple(text for text, _ in ordered)
    if not data:
        return Code(place, np.zeros(1, np.uint64), (np.zeros(0, np.uint8),))
    if len(data) <= _FEW:
        return Code(place, base, data)
    size = np.array([len(text) for text in data], np.int64)
    first = (np.cumsum(size) - size).astype(np.uint64)
    cuts = np.searchsorted(place, base[1:])
    flat = place + np.repeat(first - base, np.diff(cuts, prepend=0, append=len(place)))
    return Code(flat, np.zeros(1, np.uint64), (np.concatenate(data),))


def join(parts: Sequence[Code]) -> Code:
    """Return the code of all ``parts``, one after the other."""
    places, bases, texts = [], [], list[_U8]()
    shift = np.uint64(0)
    for part in parts:
        lowest = part.base[0]
        places.append(part.place - lowest + shift)
        bases.append(part.base - lowest + shift)
        texts += part.texts
        shift = bases[-1][-1] + np.uint64(len(part.texts[-1]) + CODE_BYTES)
    return Code(np.concatenate(places), np.concatenate(bases), tuple(texts))
