"""Site: an alternative site as the walk passes it.

The original text is executed like any code. What its replacements do to the stack
is checked elsewhere, text by text; here they count as other ways through the site
on which registers are overwritten.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from harness.text.insn import Insn, InsnKind
from harness.text.operand import BP, SP
from harness.text.patch import ORIGINAL
from harness.verify.columns import Columns
from harness.verify.edges.frame.operation import Form, operation

_STACK = 1 << SP | 1 << BP
_PLAIN = (Form.QUIET, Form.WIPE, Form.MOVE, Form.LOAD, Form.STORE, Form.LEA)


class SiteRows(Struct, frozen=True):
    """Site ``number`` of the program, from ``row`` to before ``behind``."""

    number: int
    row: int
    behind: int


class Passage(Struct, frozen=True):
    """The replacements of a site that leave the stack alone, taken together.

    Attributes:
        lost: mask of registers that one or the other overwrites.
        goes: rows where they lead, the one behind the site included.
    """

    lost: int
    goes: tuple[int, ...]


def sites_of(columns: Columns, first: int, last: int) -> list[SiteRows]:
    """Return the sites that start in rows [first, last)."""
    alternatives, insns = columns.alternatives, columns.insns
    if alternatives is None or first == last:
        return []
    start = alternatives.site_address
    here = (start >= insns.address[first]) & (start <= insns.address[last - 1])
    numbers = np.flatnonzero(here)
    end = start[numbers] + alternatives.site_length[numbers].astype(np.uint64)
    rows = insns.index(start[numbers])
    behind = np.searchsorted(insns.address, end)
    return [
        SiteRows(number, row, stop)
        for number, row, stop in zip(
            numbers.tolist(), rows.tolist(), behind.tolist(), strict=True
        )
        if row >= 0
    ]


def passages_of(columns: Columns, sites: list[SiteRows]) -> dict[int, Passage]:
    """Return what the replacements of each of ``sites`` come to, by its row."""
    return {site.row: _passage(columns, site) for site in sites}


def _passage(columns: Columns, site: SiteRows) -> Passage:
    streams, insns = columns.streams, columns.insns
    assert streams is not None
    first, last = np.searchsorted(streams.site, [site.number, site.number + 1]).tolist()
    lost, goes = 0, set[int]()
    for stream in range(first, last):
        if streams.entry[stream] == ORIGINAL:
            continue
        text = streams.rows(stream)
        overwritten = _lost(text)
        if overwritten is None:
            continue
        lost |= overwritten
        inside = range(int(insns.address[site.row]), text[-1].end + 1 if text else 0)
        jumps = [i for i in text if i.kind in (InsnKind.JMP, InsnKind.JCC)]
        away = [i.target for i in jumps if i.target not in inside]
        goes |= set(insns.index(np.array(away, np.uint64)).tolist())
        ends = (i for i in text if not i.kind.falls_through)
        if (end := next(ends, None)) is None or end.target in inside:
            goes.add(site.behind)
    return Passage(lost, tuple(sorted(row for row in goes if row >= 0)))


def _lost(text: list[Insn]) -> int | None:
    """Return the registers that ``text`` overwrites, None if it moves the stack."""
    lost = 0
    for insn in text:
        each = operation(insn.kind, insn.code)
        if each.form not in (*_PLAIN, Form.CALL, Form.FLOW):
            return None
        lost |= each.lost | each.written
    return None if lost & _STACK else lost
