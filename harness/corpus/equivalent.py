"""Equivalent: rules that prove a mutant to be no defect.

A mutant that nothing reports is a miss, unless one of these rules proves that the
mutated kernel unwinds exactly as the clean one does. The rules look at the two
programs, never at findings.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.corpus.dead import dead
from harness.corpus.mutant import Change, Kind
from harness.corpus.permitted import follows, keeps_bp, rows_of
from harness.corpus.recomputed import is_recomputed
from harness.elf.alternative import Alternatives
from harness.elf.orc import OrcReg, unpack
from harness.text.insn import I64, U64, Insn, InsnKind, Insns
from harness.text.patch import ORIGINAL, Streams
from harness.verify.columns import Columns
from harness.verify.transfer import is_defined, moves_sp, step


class Clean:
    """The clean columns, and what the rules ask of them, found once."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns

    @functools.cached_property
    def asked(self) -> U64:
        """u64[n], see :func:`asked`."""
        return asked(self.columns)

    @functools.cached_property
    def dead(self) -> npt.NDArray[np.bool_]:
        """bool[insns], see :func:`dead`."""
        return dead(self.columns)


@dataclass(frozen=True, slots=True)
class Rule:
    """One proof.

    Attributes:
        name: what a mutant that it proves is reported with.
        reason: why such a mutant is no defect.
        kinds: the kinds of mutants that it is a proof for.
        holds: whether it holds for the clean columns and the change.
    """

    name: str
    reason: str
    kinds: tuple[Kind, ...]
    holds: Callable[[Clean, Change], bool]


def proof(clean: Clean, change: Change, kind: Kind) -> str:
    """Return the name of the rule that proves ``change`` equivalent, or empty."""
    for rule in RULES:
        if kind in rule.kinds and rule.holds(clean, change):
            return rule.name
    return ""


# --- the table -------------------------------------------------------------------


def asked(columns: Columns) -> U64:
    """Return the addresses that the unwinder can look up: u64[n].

    Each instruction's start in every text (a signal frame), and of each call its
    last byte (a return address minus one).
    """
    parts = [columns.insns] + ([columns.streams.insns] if columns.streams else [])
    starts = [part.address for part in parts]
    calls = [
        part.end[np.isin(part.kind, (InsnKind.CALL, InsnKind.CALL_INDIRECT))]
        - np.uint64(1)
        for part in parts
    ]
    return np.unique(np.concatenate([*starts, *calls]))


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


def _same_answers(base: Clean, change: Change) -> bool:
    clean = base.columns
    mutant = change.columns
    if not _same_code(clean, mutant) or _is_ordered(clean) != _is_ordered(mutant):
        return False
    return clean.table is not mutant.table and not len(_differing(base, mutant))


def _unreachable(base: Clean, change: Change) -> bool:
    clean = base.columns
    mutant = change.columns
    if not _same_code(clean, mutant) or clean.table is mutant.table:
        return False
    if _is_ordered(clean) != _is_ordered(mutant):
        return False
    rows = clean.insns.index(_differing(base, mutant))
    return bool((rows >= 0).all() and base.dead[rows].all())


def _permitted(base: Clean, change: Change) -> bool:
    """Both tables are right: the code permits both states."""
    rows = _differing_rows(base, change)
    return rows is not None and follows(base.columns, change.columns, rows)


def _bp_kept(base: Clean, change: Change) -> bool:
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


# --- the code --------------------------------------------------------------------


def _window(insns: Insns, change: Change, slack: int = 16) -> list[Insn]:
    """Return the instructions from the changed one to behind the change."""
    first, last = change.address, change.address + change.size + slack
    low = int(np.searchsorted(insns.address, np.uint64(first)))
    high = int(np.searchsorted(insns.address, np.uint64(last)))
    return [insns.at(row) for row in range(low, high)]


def _texts_changed(clean: Columns, change: Change) -> bool:
    return (
        clean.insns is not change.columns.insns
        and clean.alternatives is change.columns.alternatives
    )


def places(clean: Columns, change: Change) -> list[int]:
    """Return where changed bytes run: there, or in the sites that they replace."""
    table = clean.alternatives
    if table is None:
        return [change.address]
    start, end = np.uint64(change.address), np.uint64(change.address + change.size)
    reach = table.replacement + table.replacementlen
    uses = np.flatnonzero((table.replacement < end) & (start < reach))
    if not len(uses):
        return [change.address]
    offset = start - table.replacement[uses]
    return [int(place) for place in table.address[uses] + offset]


def _unclaimed(base: Clean, change: Change) -> bool:
    clean = base.columns
    if not _texts_changed(clean, change):
        return False
    states = clean.lookup.at(np.array(places(clean, change), np.uint64))
    return not any(map(is_defined, states.tolist()))


def _same_effect(base: Clean, change: Change) -> bool:
    clean = base.columns
    if not _texts_changed(clean, change):
        return False
    old, new = _window(clean.insns, change), _window(change.columns.insns, change)
    if [i.address for i in old] != [i.address for i in new]:
        return False
    states = clean.lookup.at(np.array(places(clean, change), np.uint64)).tolist()
    return all(
        _is_linear(a) == _is_linear(b)
        and (a.code == b.code or _acts_alike(a, b, states))
        for a, b in zip(old, new, strict=True)
    )


def _is_linear(insn: Insn) -> bool:
    return insn.kind.falls_through and insn.target == 0


def _acts_alike(old: Insn, new: Insn, states: list[int]) -> bool:
    return moves_sp(old) == moves_sp(new) and all(
        step(state, old) == step(state, new) for state in states
    )


def _other_base(base: Clean, change: Change) -> bool:
    """A balanced change while the CFA is not counted from %rsp."""
    clean = base.columns
    if not _texts_changed(clean, change):
        return False
    old = _window(clean.insns, change, 0)
    new = _window(change.columns.insns, change, 0)
    moves = [moves_sp(insn) for insn in (*old, *new)]
    if not all(map(_is_linear, (*old, *new))) or None in moves:
        return False
    if any(insn.kind in (InsnKind.FRAME, InsnKind.LEAVE) for insn in (*old, *new)):
        return False
    split = len(old)
    if sum(m or 0 for m in moves[:split]) != sum(m or 0 for m in moves[split:]):
        return False
    states = {
        clean.lookup.one(place + at)
        for place in places(clean, change)
        for at in range(change.size)
    }
    return all(
        is_defined(state)
        and unpack(state).sp_reg not in (OrcReg.SP, OrcReg.SP_INDIRECT)
        for state in states
    )


def _recomputed(base: Clean, change: Change) -> bool:
    """%rsp is computed anew from %rbp before anything depends on it."""
    clean = base.columns
    return _texts_changed(clean, change) and is_recomputed(clean, change)


def _never_executed(base: Clean, change: Change) -> bool:
    """The change lies in a site's original, behind a jump that does not come back."""
    clean = base.columns
    if not _texts_changed(clean, change) or clean.alternatives is None:
        return False
    texts = [_original_at(each, change.address) for each in (clean, change.columns)]
    changed = range(change.address, change.address + change.size)
    target = clean.insns.target[clean.branches]
    into = (target >= np.uint64(changed.start)) & (target < np.uint64(changed.stop))
    return not into.any() and all(
        text is not None and not _executed(text) & set(changed) for text in texts
    )


def _original_at(columns: Columns, address: int) -> list[Insn] | None:
    """Return the original text of the site that ``address`` lies in."""
    table, streams = columns.alternatives, columns.streams
    assert table is not None
    if streams is None:
        return None
    end = table.site_address + table.site_length.astype(np.uint64)
    here = (table.site_address <= np.uint64(address)) & (np.uint64(address) < end)
    for site in np.flatnonzero(here).tolist():
        of_site = (streams.site == site) & (streams.entry == ORIGINAL)
        for row in np.flatnonzero(of_site).tolist():
            return list(streams.rows(row))
    return None


def _executed(text: list[Insn]) -> set[int]:
    """Return the addresses of what runs if ``text`` is entered at its start."""
    by_address = {insn.address: insn for insn in text}
    seen, todo = set[int](), [text[0].address] if text else []
    while todo:
        address = todo.pop()
        insn = by_address.get(address)
        if insn is None or address in seen:
            continue
        seen.add(address)
        todo += [insn.target] if insn.target else []
        todo += [insn.end] if insn.kind.falls_through else []
    return seen


def _declared(base: Clean, change: Change) -> bool:
    """The table names the new instructions' states, maybe for another text's sake."""
    clean = base.columns
    if not _texts_changed(clean, change):
        return False
    new = _window(change.columns.insns, change, 0)
    if not new or not all(map(_is_linear, new)):
        return False
    if new[-1].end != _window(clean.insns, change, 0)[-1].end:
        return False
    moves = [place - change.address for place in places(clean, change)]
    return all(_follows(clean, insn, move) for insn in new for move in moves)


def _follows(clean: Columns, insn: Insn, move: int) -> bool:
    before = clean.lookup.one(insn.address + move)
    after = clean.lookup.one(insn.end + move)
    by_sp = is_defined(before) and unpack(before).sp_reg == OrcReg.SP
    return by_sp and after in step(before, insn)


# --- alternatives ----------------------------------------------------------------


def _table_changed(clean: Columns, change: Change) -> bool:
    return clean.alternatives is not change.columns.alternatives


def _empty_replacement(base: Clean, change: Change) -> bool:
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


def _same_texts(base: Clean, change: Change) -> bool:
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


_STACK_NEUTRAL = (InsnKind.OTHER, InsnKind.NOP, InsnKind.TRAP, InsnKind.ENDBR)


def _same_stack(base: Clean, change: Change) -> bool:
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


_ANY = tuple(Kind)
RULES = (
    Rule(
        "same-answers",
        "at every address that the unwinder can ask for both tables say the same",
        _ANY,
        _same_answers,
    ),
    Rule(
        "unreachable",
        "the tables differ only where no control comes",
        _ANY,
        _unreachable,
    ),
    Rule(
        "permitted",
        "the instructions that lead there permit the other state as well",
        _ANY,
        _permitted,
    ),
    Rule(
        "bp-kept",
        "the caller's %rbp is saved, and in its register as well",
        _ANY,
        _bp_kept,
    ),
    Rule(
        "unclaimed",
        "the table says nothing about the changed code, so it says nothing wrong",
        (Kind.STATE,),
        _unclaimed,
    ),
    Rule(
        "same-effect",
        "the new instructions do to the stack what the old ones did",
        (Kind.STATE,),
        _same_effect,
    ),
    Rule(
        "other-base",
        "the frame is not counted from %rsp, and %rsp ends where it did",
        (Kind.STATE,),
        _other_base,
    ),
    Rule(
        "recomputed",
        "%rsp is computed anew from %rbp before anything depends on it",
        (Kind.STATE,),
        _recomputed,
    ),
    Rule(
        "never-executed",
        "it lies behind a jump of the original, and nothing leads there",
        (Kind.STATE,),
        _never_executed,
    ),
    Rule(
        "declared",
        "the table says of each new instruction what is true of it",
        (Kind.STATE,),
        _declared,
    ),
    Rule(
        "empty-replacement",
        "a replacement of no bytes may lie anywhere",
        _ANY,
        _empty_replacement,
    ),
    Rule(
        "same-texts",
        "all texts of the site are equal: its condition does not matter",
        _ANY,
        _same_texts,
    ),
    Rule(
        "same-stack",
        "no text of the site touches the stack: the table stays right",
        (Kind.STATE,),
        _same_stack,
    ),
)
