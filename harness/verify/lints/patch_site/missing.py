"""Missing: what is in no list, and ought to be."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from harness.elf.column import among, distinct
from harness.elf.orc import OrcType
from harness.elf.sites import SiteTable
from harness.finding import Finding
from harness.text.insn import I64, U64, InsnKind
from harness.verify.lints.patch_site.code import Code, Mask
from harness.verify.lints.patch_site.rule import Rule, finding, list_name
from harness.verify.lints.patch_site.seal import unsealed

_FENTRY = "__fentry__"


def missing(
    code: Code, table: SiteTable, goes: U64, notes: list[str]
) -> Iterator[Finding]:
    """Branches to ``goes`` that ``table`` does not have."""
    branches = code.branches
    at = np.flatnonzero(among(branches.target, goes))
    at = at[~code.listed(table)[at]]
    if code.objects.several:
        has = distinct(code.objects.of(code.lists[table].address))
        at = at[among(code.objects.owner(branches.target[at]), has)]
    # up to 5.15 objtool lists none of those in replacements, which are patched later
    section = code.columns.program.sections_at(branches.address[at])
    unused = among(section, code.texts) & ~_covered(code, table, section)
    if unused.any():
        notes.append(f".{table}: {int(unused.sum())} in replacements are not listed")
    for row in _seen(code, table, at[~unused], notes).tolist():
        goal = code.objects.plain(int(branches.target[row]))
        place = code.columns.program.location(goal)
        message = f"the branch to {place} is not in .{table}"
        address = int(branches.address[row])
        yield finding(code.columns, address, Rule.MISSING, message)


def bare_returns(code: Code, notes: list[str]) -> Iterator[Finding]:
    """`ret` where the compiler was to jump to the thunk.

    In assembly they are deliberate (ANNOTATE_UNRET_SAFE), and an int3 follows.
    """
    each, columns = code.lists.get(SiteTable.RETURN_SITES), code.columns
    if each is None:
        return
    insns, program = columns.insns, columns.program
    rows = np.flatnonzero(insns.kind == InsnKind.RET)
    section = program.sections_at(insns.address[rows])
    rows = rows[_covered(code, SiteTable.RETURN_SITES, section)]
    rows = rows[insns.code[rows][:, 1] != 0xCC]
    if columns.alternatives is not None:
        rows = rows[~among(insns.address[rows], columns.alternatives.site_address)]
    called = columns.lookup.at(insns.address[rows]) >> 40 & 15 == OrcType.CALL
    if others := len(rows) - int(called.sum()):
        notes.append(f"{others} bare returns where no call returns from")
    for row in rows[called].tolist():
        message = "a bare return, where others jump to the return thunk"
        yield finding(columns, int(insns.address[row]), Rule.MISSING, message)


def calls(code: Code, special: U64, notes: list[str]) -> Iterator[Finding]:
    """Calls that call depth tracking does not count (callthunks.c, since 6.2).

    objtool leaves out .init.text: a section of which nothing is listed.
    """
    if SiteTable.CALL_SITES not in code.lists:
        return
    branches, program = code.branches, code.columns.program
    call = branches.kind == InsnKind.CALL
    call &= ~code.listed(SiteTable.CALL_SITES, SiteTable.STATIC_CALL_SITES)
    rows = np.flatnonzero(call)
    section = program.sections_at(branches.address[rows])
    covered = _covered(code, SiteTable.CALL_SITES, section)
    notes.append(f"{int((~covered).sum())} calls are in sections without call depth")
    rows = rows[covered]
    rows = rows[~among(branches.target[rows], np.append(special, _fentry(code)))]
    functions = program.symbols.address[program.symbols.functions]
    for row in rows.tolist():
        address = int(branches.address[row])
        goes = code.objects.plain(int(branches.target[row]))
        external = goes in program.externals
        if not external and (goes not in functions or _drops_return(code, goes)):
            continue
        message = f"the call of {program.location(goes)} is not in .call_sites"
        yield finding(code.columns, address, Rule.MISSING, message)


def endbrs(code: Code) -> Iterator[Finding]:
    """Functions whose ENDBR is to go; of a program whose references are all its own."""
    each = code.lists.get(SiteTable.IBT_ENDBR_SEAL)
    if each is None or code.objects.several:
        return
    message = "nothing takes the function's address, and it is not in .ibt_endbr_seal"
    for address in unsealed(code.columns, each.address).tolist():
        yield finding(code.columns, address, Rule.MISSING, message)


def _seen(code: Code, table: SiteTable, rows: I64, notes: list[str]) -> I64:
    """Leave out what has no state: its functions are findings (``blind.py``)."""
    states = code.columns.lookup.at(code.branches.address[rows])
    blind = states >> 40 & 15 == OrcType.UNDEFINED
    if blind.any():
        many = int(blind.sum())
        notes.append(f"{list_name(table)}: {many} in code without ORC are not listed")
    return np.asarray(rows[~blind])


def _covered(code: Code, table: SiteTable, section: I64) -> Mask:
    """Whether ``table`` has any place in each of the sections."""
    places = code.lists[table].address
    covered = np.zeros(len(section), bool)
    for number in distinct(section[section >= 0]).tolist():
        bounds = code.columns.program.sections[number]
        inside = (places >= bounds.address) & (places < bounds.end)
        covered |= (section == number) & bool(inside.any())
    return covered


def _fentry(code: Code) -> U64:
    """__fentry__, if objtool lists its calls for ftrace alone (--mcount)."""
    fentry = code.columns.program.symbols.find(_FENTRY)
    row = code.lists[SiteTable.CALL_SITES].row
    if fentry is None:
        return np.zeros(0, np.uint64)
    each = code.objects.each(fentry)
    return np.asarray(each[~among(each, code.branches.target[row])])


def _drops_return(code: Code, function: int) -> bool:
    """Whether a function begins with `lea 8(%rsp),%rsp`: nobody returns to its call."""
    insns = code.columns.insns
    row = int(insns.index(np.array([function], np.uint64))[0])
    return row >= 0 and insns.code.one(row, 5) == b"\x48\x8d\x64\x24\x08"
