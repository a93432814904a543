"""Table: proofs that another table says nothing else, or nothing wrong."""

from __future__ import annotations

from harness.corpus.equivalent.clean import Clean
from harness.corpus.equivalent.permitted import follows, keeps_bp, rows_of
from harness.corpus.mutant import Change
from harness.text.insn import I64, U64
from harness.verify.columns import Columns


def same_answers(base: Clean, change: Change) -> bool:
    clean = base.columns
    mutant = change.columns
    if not _same_code(clean, mutant) or _is_ordered(clean) != _is_ordered(mutant):
        return False
    return clean.table is not mutant.table and not len(_differing(base, mutant))


def unreachable(base: Clean, change: Change) -> bool:
    clean = base.columns
    mutant = change.columns
    if not _same_code(clean, mutant) or clean.table is mutant.table:
        return False
    if _is_ordered(clean) != _is_ordered(mutant):
        return False
    rows = clean.insns.index(_differing(base, mutant))
    return bool((rows >= 0).all() and base.dead[rows].all())


def is_permitted(base: Clean, change: Change) -> bool:
    """Both tables are right: the code permits both states."""
    rows = _differing_rows(base, change)
    return rows is not None and follows(base.columns, change.columns, rows)


def bp_kept(base: Clean, change: Change) -> bool:
    """The caller's %rbp is saved, and still in its register as well."""
    rows = _differing_rows(base, change)
    return rows is not None and keeps_bp(base.columns, change.columns, rows)


def _differing_rows(base: Clean, change: Change) -> I64 | None:
    clean, mutant = base.columns, change.columns
    if not _same_code(clean, mutant) or clean.table is mutant.table:
        return None
    if _is_ordered(clean) != _is_ordered(mutant):
        return None
    return rows_of(clean, _differing(base, mutant))


def _same_code(clean: Columns, mutant: Columns) -> bool:
    return clean.insns is mutant.insns and clean.streams is mutant.streams


def _differing(base: Clean, mutant: Columns) -> U64:
    """Return the addresses at which the two tables answer differently."""
    differs = base.columns.lookup.at(base.asked) != mutant.lookup.at(base.asked)
    different: U64 = base.asked[differs]
    return different


def _is_ordered(columns: Columns) -> bool:
    return columns.program.relocatable or bool(
        (columns.table.ip[1:] >= columns.table.ip[:-1]).all()
    )
