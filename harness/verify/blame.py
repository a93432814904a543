"""Blame: who made a finding: the code, a hint, objtool, the linker or sorttable.

A kernel exists twice: vmlinux.o, as objtool left it, and vmlinux, as it was linked and
its table sorted. What is right in the first and wrong in the second came between the
two. What is wrong in both came before: from a hint in the source, if one stands there
and says just that; from the code, if following it from its function's entry leads to
what the table says; else from objtool.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from harness.elf.alternative import Alternatives
from harness.elf.hint import HintType, UnwindHints, parse_hints
from harness.elf.orc import OrcFormat, OrcType
from harness.elf.program import Program
from harness.finding import Finding
from harness.text.insn import I64, U64, Insn, InsnKind
from harness.verify.callee import Callees, Returns
from harness.verify.columns import Columns
from harness.verify.cut import extent_of
from harness.verify.edges.wholesale import RULE as WHOLESALE
from harness.verify.texts.judge import Rule as SiteRule
from harness.verify.transfer import ENTRY, step

FOLLOWED = 1 << 16  # instructions of one function
LISTS = "patch-site/"  # rules about what objtool lists


class Culprit(enum.StrEnum):
    """Who made it, in the words of a finding's ``blame``."""

    HINT = "source hint: an UNWIND_HINT says so"
    CODE = "compiler: the code itself is so, or the assembly"
    OBJTOOL = "objtool: wrong in vmlinux.o already"
    LINKER = "linker: right in vmlinux.o, wrong in vmlinux"
    SORTTABLE = "sorttable: right in vmlinux.o, the table was mixed up behind it"


# Texts of one site that disagree: no table can be right.
_CODE_RULES = (
    "conflict",
    "end",
    "stack",
    "exit",
    "loop",
    "boundary",
    "overlap",
    "target",
    "order",
)
_WITHOUT_SIGNAL = (OrcFormat.V1A, OrcFormat.V1B)
_LEAVES = (InsnKind.RET, InsnKind.JMP_INDIRECT, InsnKind.JMP)


class Pair(Struct, frozen=True):
    """A kernel before and after its link, and where the one lies in the other.

    Attributes:
        linked: vmlinux.
        object: vmlinux.o.
        shift: what to add to an address of a section of vmlinux.o, by section index.
        hints: those of vmlinux.o.
        moved: the table of vmlinux.o at the addresses of vmlinux: ip, state.
    """

    linked: Columns
    object: Columns
    shift: dict[int, int]
    hints: UnwindHints | None
    moved: tuple[U64, I64]


def pair(linked: Columns, unlinked: Columns) -> Pair:
    """Return what :func:`blame` needs of vmlinux and its vmlinux.o."""
    shift = _shifts(linked.program, unlinked.program)
    lookup = unlinked.lookup
    section = _sections(unlinked.program, lookup.ip)
    known = np.isin(section, list(shift))
    delta = np.array([shift.get(int(s), 0) for s in section.tolist()], np.int64)
    ip = lookup.ip[known] + delta[known].view(np.uint64)
    order = np.argsort(ip, kind="stable")
    hints = parse_hints(unlinked.program, unlinked.table)
    moved = ip[order], lookup.state[known][order]
    return Pair(linked, unlinked, shift, hints, moved)


def blame(finding: Finding, both: Pair) -> Culprit | None:
    """Return who made ``finding`` of the linked kernel; None if nothing tells."""
    if finding.rule == "table/order":
        return Culprit.SORTTABLE
    if finding.rule == WHOLESALE:
        return _of_all(both)
    address = finding.location.address
    home = _home(both, address)
    if home is None:
        return None
    if _patched_apart(both, address, home):
        return Culprit.LINKER
    places = list(_places(both.linked, address))
    changed = [
        place
        for place in places
        if (there := _home(both, place)) is not None
        and both.object.lookup.one(there) != both.linked.lookup.one(place)
    ]
    if changed:
        return _behind(both)
    if _code_is_wrong(both.linked, finding.rule, address):
        return Culprit.CODE
    if finding.rule.startswith(LISTS):
        return Culprit.OBJTOOL  # hints say nothing of the lists that it writes
    homes = [there for place in places if (there := _home(both, place)) is not None]
    hinted = any(_hinted(both, there) for there in homes)
    return Culprit.HINT if hinted else Culprit.OBJTOOL


def _shifts(linked: Program, unlinked: Program) -> dict[int, int]:
    """Return how far each section of ``unlinked`` was moved: most names tell."""
    places = _unique(linked)
    votes: dict[int, dict[int, int]] = {}
    for name, (address, section) in _unique(unlinked).items():
        if (there := places.get(name)) is not None:
            deltas = votes.setdefault(section, {})
            delta = there[0] - address
            deltas[delta] = deltas.get(delta, 0) + 1
    return {
        section: max(deltas, key=lambda delta: deltas[delta])
        for section, deltas in votes.items()
    }


def _unique(program: Program) -> dict[str, tuple[int, int]]:
    """Return address and section of the names of code that occur once."""
    symbols = program.symbols
    rows = np.flatnonzero(symbols.section >= 0)
    rows = rows[program.in_code(symbols.address[rows])]
    names, first, count = np.unique(
        symbols.names[rows].astype(str), return_index=True, return_counts=True
    )
    once = count == 1
    at = rows[first[once]]
    values = zip(
        symbols.address[at].tolist(), symbols.section[at].tolist(), strict=True
    )
    return dict(zip(names[once].tolist(), values, strict=True))


def _sections(program: Program, addresses: U64) -> npt.NDArray[np.int64]:
    """Return the section index at or right in front of each address, -1 if none."""
    index = np.array([s.index for s in program.sections] + [-1], np.int64)
    at = index[program.sections_at(addresses)]
    before = index[program.sections_at(addresses - np.uint64(1))]
    return np.where(at >= 0, at, before)


def _home(both: Pair, address: int) -> int | None:
    """Return where ``address`` of vmlinux is in vmlinux.o."""
    for section in both.object.program.sections:
        delta = both.shift.get(section.index)
        if delta is not None and section.address <= address - delta <= section.end:
            return address - delta
    return None


def _places(columns: Columns, address: int) -> Iterator[int]:
    """Yield ``address`` and where its instruction leads."""
    yield address
    row = int(columns.insns.covering(np.array([address], np.uint64))[0])
    if row >= 0:
        insn = columns.insns.at(row)
        yield from {insn.address, insn.end, insn.target or insn.end} - {address}


def _patched_apart(both: Pair, address: int, home: int) -> bool:
    """Whether the entries of the alternative site here are others than before."""
    new = _entries(both.linked.alternatives, address)
    old = _entries(both.object.alternatives, home)
    return new != old


def _entries(alternatives: Alternatives | None, address: int) -> list[tuple[int, ...]]:
    if alternatives is None:
        return []
    start = alternatives.address
    end = start + alternatives.site_length[alternatives.site].astype(np.uint64)
    rows = np.flatnonzero((start <= np.uint64(address)) & (np.uint64(address) < end))
    columns = (
        alternatives.cpuid,
        alternatives.flags,
        alternatives.instrlen,
        alternatives.replacementlen,
    )
    return [tuple(int(column[row]) for column in columns) for row in rows.tolist()]


def _of_all(both: Pair) -> Culprit:
    """Who made a table that is wrong wholesale: no single place of it tells."""
    ip, state = both.moved
    here = both.linked.lookup.at(ip)
    # of two entries at one place the lookup takes the last
    same = (here == state)[np.append(ip[1:] != ip[:-1], True)[: len(ip)]]
    return Culprit.OBJTOOL if same.mean() > 0.5 else _behind(both)


def _behind(both: Pair) -> Culprit:
    """Who changed the table behind vmlinux.o."""
    return Culprit.SORTTABLE if _same_entries(both) else Culprit.LINKER


def _same_entries(both: Pair) -> bool:
    """Whether the linked table has the very entries of vmlinux.o, in any order."""
    table = both.linked.table
    ip, state = both.moved
    if len(table) != len(ip):
        return False
    same_ips = np.array_equal(np.sort(table.ip), np.sort(ip))
    return bool(same_ips and np.array_equal(np.sort(table.state), np.sort(state)))


def _hinted(both: Pair, home: int) -> bool:
    """Whether the entry that holds at ``home`` in vmlinux.o is what a hint says."""
    if both.hints is None:
        return False
    table = both.object.table.sorted()
    row = int(table.find(np.array([home], np.uint64))[0])
    hints = both.hints
    same = (hints.ip == table.ip[row]) & (hints.type != HintType.OTHER)
    same &= hints.sp_offset == table.sp_offset[row]
    same &= hints.sp_reg == table.sp_reg[row]
    called = hints.type == HintType.FUNC  # a call's frame, at a function's start
    same &= np.where(called, OrcType.CALL, hints.type) == table.type[row]
    if table.format not in _WITHOUT_SIGNAL:
        same &= hints.signal == table.signal[row]
    return bool(row >= 0 and same.any())


def _code_is_wrong(columns: Columns, rule: str, address: int) -> bool:
    """Whether the table says what the code does, and that is what is wrong."""
    if rule == SiteRule.RETURN:
        return _text_starts(columns, address)
    if rule.startswith("alternative/"):
        return rule.rpartition("/")[2] in _CODE_RULES
    if not rule.startswith("text/"):
        return False
    states = _followed(columns, address)
    here = states.get(address, set())
    table = columns.lookup.one(address)
    row = int(columns.insns.index(np.array([address], np.uint64))[0])
    if row < 0 or not here:
        return False
    insn = columns.insns.at(row)
    if insn.kind in _LEAVES and here == {table} and table != ENTRY:
        return insn.target not in states  # a jump within it leaves nothing
    if insn.kind.falls_through and insn.end >= extent_of(columns.program, address)[1]:
        return here == {table}  # it runs into another function
    return len(states.get(insn.target or address, set()) | here) > 1


def _text_starts(columns: Columns, address: int) -> bool:
    """Whether the entry that holds at ``address`` is for a text of the site there.

    Then that text needs it, and the call that it lies within must not have it.
    """
    ip, streams = columns.lookup.ip, columns.streams
    row = int(np.searchsorted(ip, np.uint64(address), side="right")) - 1
    return streams is not None and bool((streams.insns.address == ip[row]).any())


def _followed(columns: Columns, address: int) -> dict[int, set[int]]:
    """Return the states that paths from its function's entry bring to each place."""
    first, last = extent_of(columns.program, address)
    callees = Callees(columns.program, columns.insns, columns.lookup)
    states: dict[int, set[int]] = {}
    todo: list[tuple[int, int, Insn | None]] = [(first, ENTRY, None)]
    while todo and len(states) < FOLLOWED:
        at, state, before = todo.pop()
        seen = states.setdefault(at, set())
        row = int(columns.insns.index(np.array([at], np.uint64))[0])
        if state in seen or len(seen) > 1 or row < 0:
            continue
        seen.add(state)
        insn = columns.insns.at(row)
        if insn.kind in (InsnKind.JMP, InsnKind.JCC) and first <= insn.target < last:
            todo.append((insn.target, state, insn))
        ends = insn.kind is InsnKind.CALL and insn.target
        if ends and callees.at(insn.target).returns is not Returns.BALANCED:
            continue
        if insn.kind.falls_through:
            after = step(state, insn, before)
            table = columns.lookup.one(insn.end)
            if after:
                todo.append((insn.end, table if table in after else after[0], insn))
    return states
