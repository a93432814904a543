"""Patch_site: the lists of places that a kernel rewrites, against its code.

objtool writes them (create_return_sites_sections() and its like in
tools/objtool/check.c). A return that is in no list keeps going to the unpatched thunk,
which protects nothing; an entry that is none makes the kernel overwrite other code.

Of several objects that are one program none is a witness for another: what branches and
keys lead to is tagged with the object that they are in.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.elf.column import among, distinct
from harness.elf.orc import OrcType
from harness.elf.program import Program
from harness.elf.sites import SiteTable, parse_sites
from harness.finding import Finding
from harness.text.insn import I64, U8, U64, InsnKind
from harness.verify.columns import Columns, Part
from harness.verify.lints.seal import unsealed
from harness.verify.window import excerpt

Mask = npt.NDArray[np.bool_]

# What the compiler and objtool call them: their interface with the kernel.
_RETURN_THUNK = "__x86_return_thunk"
_INDIRECT_THUNK = "__x86_indirect_thunk_"
_FENTRY = "__fentry__"
_TRAMPOLINE, _KEY = "__SCT__", "__SCK__"
_TRAMPOLINE_END = np.frombuffer(b"\x0f\xb9\xcc", np.uint8)  # behind its 5-byte jump
_TAIL, _FLAGS = np.uint64(1), np.uint64(3)  # the low bits of a static call's key

# A module's addresses begin with ones: there is room for its object's number.
_TAG = np.uint64(40)
_ONES = np.uint64((1 << 64) - (1 << 40))

_JUMPS = (InsnKind.JMP, InsnKind.JCC)
_BRANCHES = (InsnKind.CALL, *_JUMPS)
_KINDS = {
    SiteTable.RETURN_SITES: _JUMPS,
    SiteTable.RETPOLINE_SITES: _BRANCHES,
    SiteTable.STATIC_CALL_SITES: _BRANCHES,
    SiteTable.CALL_SITES: (InsnKind.CALL,),
    SiteTable.IBT_ENDBR_SEAL: (InsnKind.ENDBR,),
    SiteTable.SMP_LOCKS: (InsnKind.OTHER, InsnKind.FRAME, InsnKind.STACK),
    SiteTable.MCOUNT_LOC: (InsnKind.CALL, InsnKind.NOP),  # objtool --mnop
}
_TO_BRANCHES = (
    SiteTable.RETURN_SITES,
    SiteTable.RETPOLINE_SITES,
    SiteTable.STATIC_CALL_SITES,
    SiteTable.CALL_SITES,
)


class Rule(enum.StrEnum):
    """Ids of the findings about the lists."""

    MISSING = "patch-site/missing"
    FOREIGN = "patch-site/foreign"
    KEY = "patch-site/key"


@dataclass(frozen=True, slots=True)
class _Objects:
    """The objects of a program by number; if it is only one, nothing is tagged.

    Attributes:
        program: the program.
        tag: u64, of each section, and of what lies in none.
    """

    program: Program
    tag: U64

    @property
    def several(self) -> bool:
        """Whether there are more than one."""
        return len(self.tag) > 1

    def of(self, places: U64) -> U64:
        """Return the tag of what is led to from each of ``places``."""
        if not self.several:
            return self.tag
        return np.asarray(self.tag[self.program.sections_at(places)])

    def owner(self, targets: U64) -> U64:
        """Return the tag that each of ``targets`` has."""
        if not self.several:
            return np.zeros(len(targets), np.uint64)
        return np.asarray(~targets & _ONES)

    def plain(self, target: int) -> int:
        """Return the address that ``target`` is."""
        return target | int(_ONES) if self.several else target

    def each(self, target: int) -> U64:
        """Return ``target`` as each of the objects tags it."""
        return np.asarray(np.uint64(target) ^ distinct(self.tag))


def _objects_of(program: Program) -> _Objects:
    names = [section.object for section in program.sections]
    number = {name: n for n, name in enumerate(dict.fromkeys(names))}
    if len({section.object for section in program.executable}) < 2:
        return _Objects(program, np.zeros(1, np.uint64))
    numbers = np.array([*map(number.__getitem__, names), 0], np.uint64)
    return _Objects(program, numbers << _TAG)


@dataclass(frozen=True, slots=True)
class _List:
    """One table: ``row`` has the instruction at each address, -1 if none is right."""

    table: SiteTable
    address: U64
    key: U64
    row: I64


@dataclass(frozen=True, slots=True)
class _Branches:
    """The direct branches, by address; targets are tagged."""

    address: U64
    kind: U8
    target: U64

    def index(self, addresses: U64) -> I64:
        """Return the row of each of ``addresses``, -1 if there is none."""
        if not len(self.address):
            return np.full(len(addresses), -1, np.int64)
        at = np.searchsorted(self.address, addresses)
        at[at == len(self.address)] = 0
        return np.where(self.address[at] == addresses, at, -1)


@dataclass(frozen=True, slots=True)
class _Code:
    """The code as all lists are compared with it.

    Attributes:
        columns: the program.
        branches: the direct branches alone.
        texts: i64, sections that hold replacements, which do not run in place.
        lists: the tables that the program has; rows of those that are for branches
            count in ``branches``.
        objects: what the program is made of.
    """

    columns: Columns
    branches: _Branches
    texts: I64
    lists: dict[SiteTable, _List]
    objects: _Objects

    def listed(self, *tables: SiteTable) -> Mask:
        """Whether each branch is in one of ``tables``."""
        mask = np.zeros(len(self.branches.address), bool)
        for table in tables:
            if table in self.lists:
                row = self.lists[table].row
                mask[row[row >= 0]] = True
        return mask


def check_patch_sites(columns: Columns) -> Part:
    """Check that each list names what it is for, and all of it.

    Counts: the entries of all lists. Notes: what a list of this kernel is not for.
    """
    code = _read(columns)
    if not code.lists:
        return Part()
    notes: list[str] = []
    returns, indirect = _return_thunk(code), _indirect_thunks(code)
    trampolines = _trampolines(code)
    goes = {
        SiteTable.RETURN_SITES: returns,
        SiteTable.RETPOLINE_SITES: indirect,
        SiteTable.STATIC_CALL_SITES: trampolines,
    }
    findings: list[Finding] = []
    for table, each in code.lists.items():
        findings += _foreign(code, each, goes.get(table, np.zeros(0, np.uint64)))
        if table in goes:
            findings += _missing(code, table, goes[table], notes)
    findings += _bare_returns(code, notes)
    findings += _keys(code)
    findings += _calls(code, np.concatenate([*goes.values()]), notes)
    findings += _unsealed(code)
    counts = {"patch sites": sum(len(each.row) for each in code.lists.values())}
    return Part(tuple(findings), counts, tuple(notes))


def _read(columns: Columns) -> _Code:
    insns, program = columns.insns, columns.program
    found = {table: parse_sites(program, table) for table in _KINDS}
    there = {table: sites for table, sites in found.items() if sites is not None}
    rows = columns.branches
    address = insns.address[rows]
    objects = _objects_of(program)
    target = insns.target[rows] ^ objects.of(address)
    branches = _Branches(address, insns.kind[rows], target)
    lists = {}
    for table, sites in there.items():
        where = branches if table in _TO_BRANCHES else columns
        row = where.index(sites.address)
        key = sites.target ^ objects.of(sites.address)
        lists[table] = _List(table, sites.address, key, row)
    texts = np.zeros(0, np.uint64)
    if columns.alternatives is not None:
        used = columns.alternatives.replacementlen > 0
        texts = columns.alternatives.replacement[used]
    sections = distinct(program.sections_at(texts))
    return _Code(columns, branches, sections, lists, objects)


def _return_thunk(code: _Code) -> U64:
    """The one function that returns of an object jump to."""
    named = _external(code, _RETURN_THUNK)
    if code.objects.several:  # they share what is external
        named = named[among(named, code.branches.target)]
    goes = _targets(code, SiteTable.RETURN_SITES)
    goes = goes[~among(code.objects.owner(goes), code.objects.owner(named))]
    often = np.unique(code.objects.owner(goes), return_index=True)[1]
    return np.concatenate([named, goes[often]])


def _indirect_thunks(code: _Code) -> U64:
    """One per register: where many entries go, or what is called so."""
    goes = _targets(code, SiteTable.RETPOLINE_SITES)
    rare = _targets(code, SiteTable.RETPOLINE_SITES, most=1)
    program = code.columns.program
    others = [
        place
        for place in rare.tolist()
        if _INDIRECT_THUNK not in str(program.location(code.objects.plain(place)))
    ]
    other = among(goes, np.array(others, np.uint64))
    # or it has no names at all
    named = among(code.objects.owner(goes), code.objects.owner(goes[~other]))
    goes = goes[~(other & named)]
    return distinct(np.concatenate([goes, _external(code, _INDIRECT_THUNK)]))


def _external(code: _Code, prefix: str) -> U64:
    """Functions of other objects by the beginning of their names, for each object."""
    externals = code.columns.program.externals.items()
    found = [
        code.objects.each(place) for place, name in externals if name.startswith(prefix)
    ]
    return np.concatenate([np.zeros(0, np.uint64), *found])


def _trampolines(code: _Code) -> U64:
    """Static call trampolines: `jmp` or `ret`, and behind its 5 bytes a signature.

    Before 5.19 there is none; then those are some that the list goes to, by name.
    """
    insns, program = code.columns.insns, code.columns.program
    ends = np.flatnonzero(insns.kind == InsnKind.UD)
    ends = ends[(insns.code[ends][:, :3] == _TRAMPOLINE_END).all(axis=1)]
    found = insns.address[ends] - np.uint64(5)
    found ^= code.objects.of(found)
    goes = _targets(code, SiteTable.STATIC_CALL_SITES)
    others = [
        place
        for place in goes[~among(goes, found)].tolist()
        if str(program.location(code.objects.plain(place))).startswith(_TRAMPOLINE)
    ]
    known = np.concatenate([found, np.array(others, np.uint64)])
    unknown = ~among(code.objects.owner(goes), code.objects.owner(known))
    return np.concatenate([known, goes[unknown]])


def _targets(code: _Code, table: SiteTable, most: int | None = None) -> U64:
    """Where a list's branches go, often ones first; or ``most`` times at most."""
    if table not in code.lists:
        return np.zeros(0, np.uint64)
    row = code.lists[table].row
    target = code.branches.target[row[row >= 0]]
    unique, count = np.unique(target, return_counts=True)
    if most is not None:
        return np.asarray(unique[count <= most])
    return np.asarray(unique[np.argsort(-count, kind="stable")])


def _name(table: SiteTable) -> str:
    return "__mcount_loc" if table is SiteTable.MCOUNT_LOC else f".{table}"


def _foreign(code: _Code, each: _List, goes: U64) -> Iterator[Finding]:
    insns, row = code.columns.insns, each.row
    good = row >= 0
    if each.table in _TO_BRANCHES:
        if len(code.branches.address):
            good &= np.isin(code.branches.kind[row], _KINDS[each.table])
            if len(goes):
                good &= among(code.branches.target[row], goes)
    elif len(insns):
        good &= np.isin(insns.kind[row], _KINDS[each.table])
        if each.table is SiteTable.SMP_LOCKS:
            first = insns.code[row][:, :2]  # lock is the second prefix of cmpxchgw
            good &= (first[:, 0] == 0xF0) | (first == (0x66, 0xF0)).all(axis=1)
    for at in np.flatnonzero(~good).tolist():
        message = f"the entry in {_name(each.table)} is for another instruction"
        yield _finding(code.columns, int(each.address[at]), Rule.FOREIGN, message)
    for address in _repeated(each.address[good]).tolist():
        message = f"two entries in {_name(each.table)} are for it"
        yield _finding(code.columns, address, Rule.FOREIGN, message)


def _repeated(addresses: U64) -> U64:
    ordered = np.sort(addresses)
    return distinct(ordered[1:][ordered[1:] == ordered[:-1]])


def _missing(
    code: _Code, table: SiteTable, goes: U64, notes: list[str]
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
        yield _finding(code.columns, address, Rule.MISSING, message)


def _seen(code: _Code, table: SiteTable, rows: I64, notes: list[str]) -> I64:
    """Leave out what has no state: its functions are findings (``blind.py``)."""
    states = code.columns.lookup.at(code.branches.address[rows])
    blind = states >> 40 & 15 == OrcType.UNDEFINED
    if blind.any():
        many = int(blind.sum())
        notes.append(f"{_name(table)}: {many} in code without ORC are not listed")
    return np.asarray(rows[~blind])


def _covered(code: _Code, table: SiteTable, section: I64) -> Mask:
    """Whether ``table`` has any place in each of the sections."""
    places = code.lists[table].address
    covered = np.zeros(len(section), bool)
    for number in distinct(section[section >= 0]).tolist():
        bounds = code.columns.program.sections[number]
        inside = (places >= bounds.address) & (places < bounds.end)
        covered |= (section == number) & bool(inside.any())
    return covered


def _bare_returns(code: _Code, notes: list[str]) -> Iterator[Finding]:
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
        yield _finding(columns, int(insns.address[row]), Rule.MISSING, message)


def _keys(code: _Code) -> Iterator[Finding]:
    """A trampoline has one key, a key one trampoline; jumps are marked as tail calls."""
    each = code.lists.get(SiteTable.STATIC_CALL_SITES)
    if each is None or not len(code.branches.address):
        return
    branches = code.branches
    tail = np.isin(branches.kind[each.row], _JUMPS) != (each.key & _TAIL != 0)
    for at in np.flatnonzero(tail & (each.row >= 0)).tolist():
        message = "a jump is a tail call, and only a jump: the entry says otherwise"
        yield _finding(code.columns, int(each.address[at]), Rule.KEY, message)
    key, goes = each.key & ~_FLAGS, branches.target[each.row]
    pairs = np.stack([goes, key])[:, np.lexsort((key, goes))]
    new = (pairs[:, 1:] != pairs[:, :-1]).any(axis=0)
    pairs = pairs[:, np.append(True, new)[: len(key)]]
    odd = among(pairs[0], _repeated(pairs[0])) | among(pairs[1], _repeated(pairs[1]))
    program = code.columns.program
    for trampoline, wrong in pairs[:, odd].T.tolist():
        places = map(code.objects.plain, (trampoline, wrong))
        names = [str(program.location(place)) for place in places]
        if len({n.removeprefix(_TRAMPOLINE).removeprefix(_KEY) for n in names}) == 1:
            continue
        for at in np.flatnonzero((goes == trampoline) & (key == wrong)).tolist():
            message = f"the call to {names[0]} has the key {names[1]}"
            yield _finding(code.columns, int(each.address[at]), Rule.KEY, message)


def _calls(code: _Code, special: U64, notes: list[str]) -> Iterator[Finding]:
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
        yield _finding(code.columns, address, Rule.MISSING, message)


def _unsealed(code: _Code) -> Iterator[Finding]:
    """Functions whose ENDBR is to go; of a program whose references are all its own."""
    each = code.lists.get(SiteTable.IBT_ENDBR_SEAL)
    if each is None or code.objects.several:
        return
    message = "nothing takes the function's address, and it is not in .ibt_endbr_seal"
    for address in unsealed(code.columns, each.address).tolist():
        yield _finding(code.columns, address, Rule.MISSING, message)


def _fentry(code: _Code) -> U64:
    """__fentry__, if objtool lists its calls for ftrace alone (--mcount)."""
    fentry = code.columns.program.symbols.find(_FENTRY)
    row = code.lists[SiteTable.CALL_SITES].row
    if fentry is None:
        return np.zeros(0, np.uint64)
    each = code.objects.each(fentry)
    return np.asarray(each[~among(each, code.branches.target[row])])


def _drops_return(code: _Code, function: int) -> bool:
    """Whether a function begins with `lea 8(%rsp),%rsp`: nobody returns to its call."""
    insns = code.columns.insns
    row = int(insns.index(np.array([function], np.uint64))[0])
    return row >= 0 and insns.code.one(row, 5) == b"\x48\x8d\x64\x24\x08"


def _finding(columns: Columns, address: int, rule: Rule, message: str) -> Finding:
    return Finding(
        rule.value,
        columns.program.location(address),
        message,
        window=excerpt(columns.program, columns.insns, address),
    )
