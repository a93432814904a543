"""Code: the branches and instructions of a program, and the lists about them.

Of several objects that are one program none is a witness for another: what branches and
keys lead to is tagged with the object that they are in.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from harness.elf.column import distinct
from harness.elf.program import Program
from harness.elf.sites import SiteTable, parse_sites
from harness.text.insn import I64, U8, U64, InsnKind
from harness.verify.columns import Columns

Mask = npt.NDArray[np.bool_]

# A module's addresses begin with ones: there is room for its object's number.
_TAG = np.uint64(40)
_ONES = np.uint64((1 << 64) - (1 << 40))

JUMPS = (InsnKind.JMP, InsnKind.JCC)
_BRANCHES = (InsnKind.CALL, *JUMPS)
KINDS = {
    SiteTable.RETURN_SITES: JUMPS,
    SiteTable.RETPOLINE_SITES: _BRANCHES,
    SiteTable.STATIC_CALL_SITES: _BRANCHES,
    SiteTable.CALL_SITES: (InsnKind.CALL,),
    SiteTable.IBT_ENDBR_SEAL: (InsnKind.ENDBR,),
    SiteTable.SMP_LOCKS: (InsnKind.OTHER, InsnKind.FRAME, InsnKind.STACK),
    SiteTable.MCOUNT_LOC: (InsnKind.CALL, InsnKind.NOP),  # objtool --mnop
}
TO_BRANCHES = (
    SiteTable.RETURN_SITES,
    SiteTable.RETPOLINE_SITES,
    SiteTable.STATIC_CALL_SITES,
    SiteTable.CALL_SITES,
)


class Objects(Struct, frozen=True):
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


def objects_of(program: Program) -> Objects:
    names = [section.object for section in program.sections]
    number = {name: n for n, name in enumerate(dict.fromkeys(names))}
    if len({section.object for section in program.executable}) < 2:
        return Objects(program, np.zeros(1, np.uint64))
    numbers = np.array([*map(number.__getitem__, names), 0], np.uint64)
    return Objects(program, numbers << _TAG)


class Listed(Struct, frozen=True):
    """One table: ``row`` has the instruction at each address, -1 if none is right."""

    table: SiteTable
    address: U64
    key: U64
    row: I64


class Branches(Struct, frozen=True):
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


class Code(Struct, frozen=True):
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
    branches: Branches
    texts: I64
    lists: dict[SiteTable, Listed]
    objects: Objects

    def listed(self, *tables: SiteTable) -> Mask:
        """Whether each branch is in one of ``tables``."""
        mask = np.zeros(len(self.branches.address), bool)
        for table in tables:
            if table in self.lists:
                row = self.lists[table].row
                mask[row[row >= 0]] = True
        return mask


def read_code(columns: Columns) -> Code:
    """Read the lists of ``columns``, and what they are about."""
    insns, program = columns.insns, columns.program
    found = {table: parse_sites(program, table) for table in KINDS}
    there = {table: sites for table, sites in found.items() if sites is not None}
    rows = columns.branches
    address = insns.address[rows]
    objects = objects_of(program)
    target = insns.target[rows] ^ objects.of(address)
    branches = Branches(address, insns.kind[rows], target)
    lists = {}
    for table, sites in there.items():
        where = branches if table in TO_BRANCHES else columns
        row = where.index(sites.address)
        key = sites.target ^ objects.of(sites.address)
        lists[table] = Listed(table, sites.address, key, row)
    texts = np.zeros(0, np.uint64)
    if columns.alternatives is not None:
        used = columns.alternatives.replacementlen > 0
        texts = columns.alternatives.replacement[used]
    sections = distinct(program.sections_at(texts))
    return Code(columns, branches, sections, lists, objects)
