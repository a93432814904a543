"""Code: proofs that other code does nothing else to the stack, or is not run."""

from __future__ import annotations

import numpy as np

from harness.corpus.equivalent.clean import Clean
from harness.corpus.equivalent.recomputed import is_recomputed
from harness.corpus.mutant import Change
from harness.elf.orc import OrcReg, unpack
from harness.text.insn import Insn, InsnKind, Insns
from harness.text.patch import ORIGINAL
from harness.verify.columns import Columns
from harness.verify.transfer import is_defined, moves_sp, step


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


def unclaimed(base: Clean, change: Change) -> bool:
    clean = base.columns
    if not _texts_changed(clean, change):
        return False
    states = clean.lookup.at(np.array(places(clean, change), np.uint64))
    return not any(map(is_defined, states.tolist()))


def same_effect(base: Clean, change: Change) -> bool:
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


def other_base(base: Clean, change: Change) -> bool:
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


def recomputed(base: Clean, change: Change) -> bool:
    """%rsp is computed anew from %rbp before anything depends on it."""
    clean = base.columns
    return _texts_changed(clean, change) and is_recomputed(clean, change)


def never_executed(base: Clean, change: Change) -> bool:
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


def declared(base: Clean, change: Change) -> bool:
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
