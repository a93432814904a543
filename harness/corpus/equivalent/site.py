"""Site: proofs that an alternative site gets the same texts, or neutral ones."""

from __future__ import annotations

import numpy as np

from harness.corpus.equivalent.clean import Clean
from harness.corpus.mutant import Change
from harness.corpus.rewrite import Poke
from harness.elf.alternative import Alternatives
from harness.text.insn import I64, InsnKind
from harness.text.patch import Streams
from harness.verify.columns import Columns
from harness.verify.variant import Variants


def empty_replacement(base: Clean, change: Change) -> bool:
    """Only the place of a replacement of no bytes moved."""
    clean = base.columns
    before, after = clean.alternatives, change.columns.alternatives
    if before is None or after is None or not _table_changed(clean, change):
        return False
    moved = before.replacement != after.replacement
    same = all(
        (getattr(before, name) == getattr(after, name)).all()
        for name in ("address", "cpuid", "flags", "instrlen", "replacementlen")
    )
    return same and bool((before.replacementlen[moved] == 0).all())


def same_texts(base: Clean, change: Change) -> bool:
    """Whatever the condition, the site gets the same bytes."""
    clean = base.columns
    before, after = clean.alternatives, change.columns.alternatives
    if before is None or after is None or not _table_changed(clean, change):
        return False
    if not _same_layout(before, after):
        return False
    changed = (before.cpuid != after.cpuid) | (before.flags != after.flags)
    sites = np.unique(before.site[changed]).tolist()
    return all(_one_text(clean.streams, site) for site in sites)


def _same_layout(before: Alternatives, after: Alternatives) -> bool:
    names = ("address", "replacement", "instrlen", "replacementlen")
    return all((getattr(before, n) == getattr(after, n)).all() for n in names)


def _one_text(streams: Streams | None, site: int) -> bool:
    if streams is None:
        return False
    rows = np.flatnonzero(streams.site == site).tolist()
    texts = {tuple((i.code, i.target) for i in streams.rows(row)) for row in rows}
    return len(texts) == 1


def never_chosen(base: Clean, change: Change) -> bool:
    """Only the code of replacements changed that no kernel ever runs."""
    table, streams = base.columns.alternatives, base.columns.streams
    if table is None or streams is None:
        return False
    variants = Variants(table, base.columns.features, streams.era)
    first = table.replacement
    last = first + table.replacementlen.astype(np.uint64)
    for edit in change.edits:
        if not isinstance(edit, Poke):
            return False
        here = np.flatnonzero((first < edit.end) & (last > edit.address)).tolist()
        if not any(first[at] <= edit.address and edit.end <= last[at] for at in here):
            return False
        if any(variants.possible(int(table.site[at]), at) for at in here):
            return False
    return True


_STACK_NEUTRAL = (InsnKind.OTHER, InsnKind.NOP, InsnKind.TRAP, InsnKind.ENDBR)


def same_stack(base: Clean, change: Change) -> bool:
    """No text of the site, before or after, does anything to the stack.

    The kernel is wrong, but not its table: that holds one state over the site.
    """
    before, after = base.columns.alternatives, change.columns.alternatives
    if before is None or after is None or before is after:
        return False
    changed = (_by_index(before) != _by_index(after)).any(axis=0)
    return all(
        _is_neutral(columns, table, np.flatnonzero(changed[table.index]))
        for columns, table in ((base.columns, before), (change.columns, after))
    )


def _by_index(table: Alternatives) -> I64:
    """Return the fields that say what is patched where, in the file's order."""
    order = np.argsort(table.index)
    fields = (table.address, table.replacement, table.instrlen, table.replacementlen)
    return np.stack([field[order].astype(np.int64) for field in fields])


def _is_neutral(columns: Columns, table: Alternatives, entries: I64) -> bool:
    """Whether no text of these entries' sites moves the stack, in code or table."""
    streams = columns.streams
    sites = np.unique(table.site[entries])
    if streams is None:
        return False
    rows = np.flatnonzero(np.isin(streams.site, sites)).tolist()
    texts = [insn for row in rows for insn in streams.rows(row)]
    return (
        bool(streams.whole[rows].all())
        and all(insn.kind in _STACK_NEUTRAL for insn in texts)
        and all(_is_constant(columns, table, site) for site in sites.tolist())
    )


def _is_constant(columns: Columns, table: Alternatives, site: int) -> bool:
    start, length = int(table.site_address[site]), int(table.site_length[site])
    inside = np.arange(start, start + length + 1, dtype=np.uint64)
    return len(np.unique(columns.lookup.at(inside))) == 1


def _table_changed(clean: Columns, change: Change) -> bool:
    return clean.alternatives is not change.columns.alternatives
