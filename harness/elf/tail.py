"""Tail: the fill behind code, up to where the next code is aligned to.

Compilers, linkers and assemblers write int3, or NOPs, of which the long ones have as many
prefixes as they need: P6's in Intel's manual, which gas and the kernel's tables use.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from harness.elf.file import Bytes

LONGEST = 64  # bytes of it that are looked for
_INT3, _NOP, _LONG = 0xCC, 0x90, 0x0F
# of each byte: whether it is a prefix of fill, fill alone, or what longer fill ends with
_PREFIX, _SINGLE, _LAST = np.zeros((3, 256), bool)
_PREFIX[[0x66, 0x2E]] = True
_SINGLE[[_INT3, _NOP]] = True
_LAST[[0x00, 0x66, 0x2E]] = True  # a prefix, too: of the single byte behind it
# nopl and nopw, whose operands differ in length alone
_NOPL = tuple(
    np.frombuffer(bytes.fromhex(code), np.uint8)
    for code in (
        "0f1f00",
        "0f1f4000",
        "0f1f440000",
        "0f1f8000000000",
        "0f1f840000000000",
    )
)

_I64 = npt.NDArray[np.int64]
_Rows = npt.NDArray[np.bool_]


def tails(data: Bytes, first: _I64, last: _I64) -> _I64:
    """Return how many bytes of each data[first:last] are fill at its end, up to LONGEST.

    i64[n] of three arrays. A byte is looked at in all of them at once, from the end on:
    it is fill if what starts there ends where fill starts that is known already. Most
    have fill of single bytes and no other.
    """
    found = _singles(data, first, last)
    at = last - found - 1  # what is in front of it
    rows = np.flatnonzero((at >= first) & _LAST[data[np.maximum(at, 0)]])
    known = found[rows]
    # whether fill starts at the byte behind, and 1, 2... bytes on
    fill = [known >= ahead for ahead in range(_NOPL[-1].size)]
    nop = (known > 0) & (data[np.minimum(at[rows] + 1, len(data) - 1)] == _NOP)
    for size in range(1, LONGEST + 1):
        at = last[rows] - known - size
        inside = (at >= first[rows]) & (known + size <= LONGEST)
        byte = data[np.maximum(at, 0)]
        nop &= _PREFIX[byte]
        nop |= (byte == _NOP) & fill[0]
        _add_long(nop, data, at, np.flatnonzero(inside & (byte == _LONG)), fill)
        nop &= inside
        starts = nop | (inside & (byte == _INT3) & fill[0])
        found[rows[starts]] = known[starts] + size
        fill = [starts, *fill[:-1]]
        living = np.flatnonzero(np.logical_or.reduce([nop, *fill]))
        if not len(living):
            break
        rows, known, nop = rows[living], known[living], nop[living]
        fill = [one[living] for one in fill]
    return found


def _singles(data: Bytes, first: _I64, last: _I64) -> _I64:
    """Return how many bytes at the end of each are fill of one byte, up to LONGEST."""
    found = np.zeros(len(first), np.int64)
    rows = np.arange(len(first))
    for size in range(1, LONGEST + 1):
        at = last[rows] - size
        rows = rows[(at >= first[rows]) & _SINGLE[data[np.maximum(at, 0)]]]
        if not len(rows):
            break
        found[rows] = size
    return found


def _add_long(nop: _Rows, data: Bytes, at: _I64, rows: _I64, fill: list[_Rows]) -> None:
    """Set ``nop`` for those of ``rows`` with a long NOP ``at`` them, and fill behind."""
    for code in _NOPL:
        near = rows[fill[code.size - 1][rows]]
        same = (data[at[near, None] + np.arange(code.size)] == code).all(axis=1)
        nop[near[same]] = True
