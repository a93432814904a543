"""Order: what the texts of a site are written over, where that matters.

ALT_FLAG_DIRECT_CALL takes its target from the call through memory that it replaces, and
alt_replace_call() is a BUG() where there is none. Kernels before 7.0 write the entries of
a site one after the other, each over what the one before has left (a4233c21e773
"x86/alternative: Patch a single alternative location only once").
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from harness.elf.alternative import Alternatives, AltFlag
from harness.elf.column import distinct
from harness.finding import Finding, Lines
from harness.text.insn import I64
from harness.text.patch import Streams
from harness.verify.columns import Columns, Part
from harness.verify.variant import Variants
from harness.verify.window import Column, draw

RULE = "alternative/order"

_CALL = b"\xff\x15"  # call *disp(%rip)
_MESSAGE = "it makes a call direct that an earlier text has overwritten"


def check_order(columns: Columns) -> Part:
    """Check that what is to be made a direct call is still a call by then."""
    alternatives, streams = columns.alternatives, columns.streams
    if alternatives is None or streams is None or not streams.era.sequential:
        return Part()
    late = np.flatnonzero(alternatives.flags & AltFlag.DIRECT_CALL)
    late = late[late > alternatives.site_first[alternatives.site[late]]]
    return Part(tuple(_overwritten(columns, alternatives, streams, late)))


def _overwritten(
    columns: Columns, alternatives: Alternatives, streams: Streams, late: I64
) -> Iterator[Finding]:
    """Report the entries ``late`` that come behind a text which is no such call."""
    variants = Variants(alternatives, columns.features, streams.era)
    for site in distinct(alternatives.site[late]).tolist():
        first = int(np.searchsorted(streams.site, site))
        before = int(alternatives.site_first[site]) - 1
        for (earlier, later), platforms in variants.covers(site).items():
            direct = alternatives.flags[[earlier, later]] & AltFlag.DIRECT_CALL
            text = streams.rows(first + earlier - before)
            stays = text[0].code[:2] == _CALL and not direct[0]
            if direct[1] and not stays:
                rows = [first, *(first + entry - before for entry in (earlier, later))]
                yield _finding(columns, streams, variants, rows, platforms)


def _finding(
    columns: Columns,
    streams: Streams,
    variants: Variants,
    rows: list[int],
    platforms: tuple[str, ...],
) -> Finding:
    """Return the finding of a site's streams ``rows``: original, earlier and later."""
    assert columns.patterns is not None  # there are streams
    program = columns.program
    site, later = int(streams.site[rows[0]]), int(streams.entry[rows[2]])
    start = int(variants.alternatives.site_address[site])
    length = np.uint64(variants.alternatives.site_length[site])
    state = columns.lookup.at(np.uint64(start) + np.arange(length, dtype=np.uint64))
    labels = [variants.label(site, int(streams.entry[row])) for row in rows]
    verdict = (
        "the call's target is read from the site, where there is by then",
        f"    {labels[1]}",
    )
    texts = [
        Column(label, {i.address - start: i for i in streams.rows(row)})
        for label, row in zip(labels, rows, strict=True)
    ]
    return Finding(
        RULE,
        program.location(start),
        _MESSAGE,
        variant=labels[2],
        platforms=platforms,
        cause=f"text {int(columns.patterns.pattern[later]):016x}",
        window=Lines(lambda: draw(program, texts, state.tolist(), 0, verdict)),
    )
