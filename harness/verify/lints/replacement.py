"""Replacement: where the texts of replacements lie, and where their branches go.

Each ALTERNATIVE emits its replacements anew, one behind the other and without space
between them: bytes of .altinstr_replacement that two entries share, or none has, are
a wrong offset or a wrong length.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from harness.elf.alternative import Alternatives
from harness.elf.column import distinct
from harness.finding import Finding
from harness.text.insn import I64, U64, InsnKind
from harness.text.patch import ORIGINAL, Streams
from harness.verify.columns import Columns, Part
from harness.verify.window import excerpt

RULE = "alternative/replacement"

_BRANCHES = (InsnKind.CALL, InsnKind.JMP, InsnKind.JCC)


def check_replacements(columns: Columns) -> Part:
    """Check that replacements tile their section and branch to instructions."""
    alternatives, streams = columns.alternatives, columns.streams
    if alternatives is None or streams is None:
        return Part()
    return Part(
        (
            *_tiles(columns, alternatives),
            *_targets(columns, alternatives, streams),
        )
    )


def _tiles(columns: Columns, alternatives: Alternatives) -> Iterator[Finding]:
    entries = np.flatnonzero(alternatives.replacementlen)
    entries = entries[np.argsort(alternatives.replacement[entries], kind="stable")]
    start = alternatives.replacement[entries]
    end = start + alternatives.replacementlen[entries]
    section = columns.program.sections_at(start)
    for here in distinct(section[section >= 0]).tolist():
        inside = section == here
        bounds = columns.program.sections[here]
        yield from _row(
            columns,
            alternatives,
            entries[inside],
            np.append(start[inside], np.uint64(bounds.end)),
            np.concatenate([np.array([bounds.address], np.uint64), end[inside]]),
        )


def _row(
    columns: Columns, alternatives: Alternatives, entries: I64, start: U64, end: U64
) -> Iterator[Finding]:
    """Compare where each replacement starts with where the one before it ended."""
    reach = np.maximum.accumulate(end)
    for at in np.flatnonzero(start < reach).tolist():
        if at < len(entries):
            message = "its replacement shares bytes with another site's"
            yield _finding(columns, int(alternatives.address[entries[at]]), message)
    for at in np.flatnonzero(start > reach).tolist():
        entry = int(entries[max(at - 1, 0)])
        size = int(start[at] - reach[at])
        message = f"{size} bytes behind its replacement belong to no entry"
        yield _finding(columns, int(alternatives.address[entry]), message)


def _targets(
    columns: Columns, alternatives: Alternatives, streams: Streams
) -> Iterator[Finding]:
    """Branches out of a replacement, as they go once it is in its place."""
    program, insns = columns.program, streams.insns
    stream = np.repeat(np.arange(len(streams)), np.diff(streams.first))
    start = alternatives.site_address[streams.site[stream]]
    length = alternatives.site_length[streams.site[stream]].astype(np.uint64)
    out = (insns.target < start) | (insns.target > start + length)
    out &= insns.of_kind(*_BRANCHES) & (insns.target > 0)
    rows = np.flatnonzero(out & (streams.entry[stream] != ORIGINAL))
    target, inverse = np.unique(insns.target[rows], return_inverse=True)
    named = _starts(program.symbols.address, target)
    other = np.array([one in program.externals for one in target.tolist()], bool)
    starts = other | (columns.insns.index(target) >= 0)
    calls = insns.kind[rows] == InsnKind.CALL
    known = starts[inverse] & (~calls | named[inverse])
    for row in rows[~known].tolist():
        place = program.location(int(insns.target[row]))
        what = "a call" if insns.kind[row] == InsnKind.CALL else "a jump"
        message = f"{what} of its replacement goes to {place}, which is no start"
        yield _finding(columns, int(start[row]), message)


def _starts(addresses: U64, wanted: U64) -> npt.NDArray[np.bool_]:
    """Whether each of ``wanted`` is one of ``addresses``, which ascend."""
    if not len(addresses):  # stripped: any place may be a function's start
        return np.ones(len(wanted), bool)
    at = np.minimum(np.searchsorted(addresses, wanted), len(addresses) - 1)
    return np.asarray(addresses[at] == wanted)


def _finding(columns: Columns, address: int, message: str) -> Finding:
    return Finding(
        RULE,
        columns.program.location(address),
        message,
        window=excerpt(columns.program, columns.insns, address),
    )
