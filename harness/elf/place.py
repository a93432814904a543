"""Place: code by a number that it has in every build which has that code.

An address says nothing of another build. A symbol's name and the distance from it do,
but inlined functions that were not inlined have one name, in many files: the nearest
symbol before them with a name of its own tells them apart, and their order behind that.
"""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import numpy.typing as npt

from harness.elf.program import Program

_U64 = npt.NDArray[np.uint64]
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # splitmix64
_STEP = np.uint64(0x9E3779B97F4A7C15)


class Places:
    """The places in the code of one program."""

    def __init__(self, program: Program) -> None:
        symbols = program.symbols
        rows = np.flatnonzero(program.in_code(symbols.address) & ~symbols.name.unsaid)
        self._start, first = np.unique(symbols.address[rows], return_index=True)
        names = symbols.name.take(rows[first]).column().tolist()
        self._digest = np.array(_digests(names), np.uint64)

    def of(self, addresses: _U64, more: npt.NDArray[np.integer] | None = None) -> _U64:
        """Return a number for each of ``addresses``, and what is ``more`` about it."""
        at = np.searchsorted(self._start, addresses, side="right") - 1
        none = np.zeros(1, np.uint64)  # what is before all symbols
        digest = np.concatenate([self._digest, none])
        start = np.concatenate([self._start, none])
        mixed = _mixed(digest[at] + (addresses - start[at]) * _STEP)
        if more is None:
            return mixed
        return _mixed(mixed + more.astype(np.int64).view(np.uint64) * _STEP)


def _digests(names: list[str]) -> list[int]:
    often = Counter(names)
    alone, behind, found = "", Counter[str](), []
    for name in names:
        if often[name] == 1:
            alone, behind = name, Counter()
        behind[name] += 1
        told = f"{alone}\0{name}\0{behind[name]}".encode("utf-8", "surrogateescape")
        digest = hashlib.blake2b(told, digest_size=8).digest()
        found.append(int.from_bytes(digest, "little"))
    return found


def _mixed(number: _U64) -> _U64:
    for shift, factor in zip((30, 27), _MIX, strict=True):
        number = (number ^ (number >> np.uint64(shift))) * factor
    return np.asarray(number ^ (number >> np.uint64(31)))
