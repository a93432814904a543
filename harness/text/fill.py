"""Fill: long runs of one byte in code, which are not worth decoding."""

from __future__ import annotations

import numpy as np

from harness.text.insn import U8

# From how many bytes on runs of a fill byte are left out. NOPs are code, too: sites of
# alternatives that have room for longer texts lie side by side.
FILL = {0x00: 64, 0x90: 4096, 0xCC: 64}
LONGEST = 16  # an instruction before the run may reach that far into it


def stretches(data: U8) -> list[tuple[int, int]]:
    """Return what lies between long fill runs, as offsets [first, last)."""
    between, at = [], 0
    for begin, end in _fill_runs(data):
        if begin > at:  # an immediate may reach into the run: keep its first bytes
            between.append((at, begin + LONGEST))
        at = end
    if at < len(data):
        between.append((at, len(data)))
    return between


def _fill_runs(data: U8) -> list[tuple[int, int]]:
    """Return the long runs of one fill byte, as [first, last).

    Looks at eight bytes at a time; a run may start up to seven bytes late.
    """
    words = data[: len(data) & ~7].view("<u8")
    fill = np.zeros(len(words) + 2, np.int8)
    least = np.array([len(data), *FILL.values()])
    for number, byte in enumerate(FILL, 1):
        fill[1:-1][words == np.uint64(byte * 0x0101010101010101)] = number
    edges = np.flatnonzero(fill[1:] != fill[:-1])
    first, last = edges[:-1], edges[1:]
    kind = fill[first + 1]
    runs = (kind > 0) & ((last - first) * 8 >= least[kind])
    found = []
    for begin, end in zip(first[runs].tolist(), last[runs].tolist(), strict=True):
        byte, stop = data[begin * 8], end * 8
        while stop < len(data) and data[stop] == byte:
            stop += 1
        found.append((begin * 8, stop))
    return found
