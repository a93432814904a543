"""Place: where alternative sites lie, and what else uses those bytes.

The kernel patches a site whole, so nothing outside may count on its inside.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from harness.elf.alternative import Alternatives
from harness.elf.program import Program
from harness.finding import Finding
from harness.text.insn import U64, Insns
from harness.verify.columns import Columns, Part
from harness.verify.texts.judge import Rule
from harness.verify.window import excerpt

KERNEL_SPAN = 2 << 30  # bytes; where all kernel code lies
_BLOCK = np.uint64(5)  # bits of an address; what shares the others may share a site


def check_places(columns: Columns) -> Part:
    """Report sites that start inside an instruction, overlap, or are jumped into."""
    if columns.alternatives is None:
        return Part()
    return Part(tuple(_places(columns, columns.alternatives)))


def _places(columns: Columns, alternatives: Alternatives) -> Iterator[Finding]:
    program, insns = columns.program, columns.insns
    order = np.argsort(alternatives.site_address, kind="stable")
    start = alternatives.site_address[order]
    end = start + alternatives.site_length[order].astype(np.uint64)
    covering = insns.covering(start)
    for at in np.flatnonzero((covering >= 0) & (insns.index(start) < 0)).tolist():
        yield _finding(
            program,
            insns,
            int(start[at]),
            Rule.BOUNDARY,
            "the site starts in the middle of an instruction",
        )
    for at in np.flatnonzero(end[:-1] > start[1:]).tolist():
        before = program.location(int(start[at]))
        yield _finding(
            program,
            insns,
            int(start[at + 1]),
            Rule.OVERLAP,
            f"the site lies partly in the one at {before}: one overwrites the other",
        )
    if not len(start):
        return
    rows = columns.branches
    rows = rows[_within(start, end, insns.target[rows])]
    target = insns.target[rows]
    site = np.maximum(np.searchsorted(start, target, side="right") - 1, 0)
    inside = (target > start[site]) & (target < end[site])
    source = insns.address[rows]
    own = (source >= start[site]) & (source < end[site])
    for at in np.flatnonzero(inside & ~own).tolist():
        yield _finding(
            program,
            insns,
            int(source[at]),
            Rule.TARGET,
            f"a branch lands inside the site at "
            f"{program.location(int(start[site[at]]))}",
        )


def _within(start: U64, end: U64, places: U64) -> npt.NDArray[np.bool_]:
    """Tell which of ``places`` may lie inside a site: all that do, and some others."""
    low, high = start[0], end.max()
    near = np.asarray((places > low) & (places < high))
    if int(high) - int(low) > KERNEL_SPAN or (end < start).any():
        return near  # a site is out of place: every branch gets the longer look
    blocks = np.zeros((int(high - low) >> _BLOCK) + 1, dtype=bool)
    first, last = (start - low) >> _BLOCK, (end - low) >> _BLOCK
    for step in range(int((last - first).max()) + 1):
        blocks[np.minimum(first + np.uint64(step), last).view(np.int64)] = True
    near[near] = blocks[((places[near] - low) >> _BLOCK).view(np.int64)]
    return near


def _finding(
    program: Program, insns: Insns, address: int, rule: Rule, message: str
) -> Finding:
    window = excerpt(program, insns, address)
    return Finding(rule.value, program.location(address), message, window=window)
