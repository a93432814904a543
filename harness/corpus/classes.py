"""Classes: every class of mutants, by name, and the zones that they are drawn in."""

from __future__ import annotations

import difflib
import enum

import numpy as np

from harness.corpus import alternative, orc, side, text
from harness.corpus.mutant import MutantClass
from harness.errors import UserError
from harness.text.insn import I64
from harness.verify.columns import Columns

CLASSES: dict[str, MutantClass] = {
    one.name: one
    for one in (*orc.CLASSES, *text.CLASSES, *alternative.CLASSES, *side.CLASSES)
}


class Zone(enum.StrEnum):
    """Where mutants are drawn: anywhere, or in the entry code alone.

    Entry code is a hundredth of a kernel and nearly all of its hints: drawn from
    the whole, its mutants would be too few to count.
    """

    ALL = "all"
    ENTRY = "entry"


def chosen(pattern: str) -> list[MutantClass]:
    """Return the classes whose name is, or begins with, ``pattern``.

    Raises:
        UserError: there is none.
    """
    found = [
        one
        for name, one in CLASSES.items()
        if name == pattern or name.startswith(f"{pattern.rstrip('/')}/") or not pattern
    ]
    if not found:
        groups = sorted({name.partition("/")[0] for name in CLASSES})
        near = difflib.get_close_matches(pattern, CLASSES)
        hint = f"{', '.join(near)}?" if near else f"groups are {', '.join(groups)}"
        raise UserError(f"no class of mutants {pattern}", hint=hint)
    return found


def zones(one: MutantClass) -> tuple[Zone, ...]:
    """Return where mutants of ``one`` are drawn."""
    if one in orc.CLASSES or one.name.startswith("text/"):
        return (Zone.ALL, Zone.ENTRY)
    return (Zone.ALL,)


def candidates(one: MutantClass, zone: Zone, columns: Columns) -> I64:
    """Return the rows that ``one`` can spoil in ``zone``."""
    rows = one.candidates(columns)
    if zone is Zone.ALL or not len(rows):
        return rows
    symbols = columns.program.symbols
    first, last = symbols.find("__entry_text_start"), symbols.find("__entry_text_end")
    if first is None or last is None:
        return rows[:0]
    orc_rows = one in orc.CLASSES
    address = columns.table.ip[rows] if orc_rows else columns.insns.address[rows]
    return rows[(address >= np.uint64(first)) & (address < np.uint64(last))]
