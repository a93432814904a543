"""Foreign: entries that are for nothing that their list is for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from harness.elf.column import among, ascending, distinct
from harness.elf.sites import SiteTable
from harness.finding import Finding
from harness.text.insn import U64
from harness.verify.lints.patch_site.code import KINDS, TO_BRANCHES, Code, Listed
from harness.verify.lints.patch_site.rule import Rule, finding, list_name


def foreign(code: Code, each: Listed, goes: U64) -> Iterator[Finding]:
    """Entries of one list that are not for what branches to ``goes``, or twice."""
    insns, row = code.columns.insns, each.row
    good = row >= 0
    if each.table in TO_BRANCHES:
        if len(code.branches.address):
            good &= np.isin(code.branches.kind[row], KINDS[each.table])
            if len(goes):
                good &= among(code.branches.target[row], goes)
    elif len(insns):
        good &= np.isin(insns.kind[row], KINDS[each.table])
        if each.table is SiteTable.SMP_LOCKS:
            first = insns.code[row][:, :2]  # lock is the second prefix of cmpxchgw
            good &= (first[:, 0] == 0xF0) | (first == (0x66, 0xF0)).all(axis=1)
    for at in np.flatnonzero(~good).tolist():
        message = f"the entry in {list_name(each.table)} is for another instruction"
        yield finding(code.columns, int(each.address[at]), Rule.FOREIGN, message)
    for address in repeated(each.address[good]).tolist():
        message = f"two entries in {list_name(each.table)} are for it"
        yield finding(code.columns, address, Rule.FOREIGN, message)


def repeated(addresses: U64) -> U64:
    """Return those that are there more than once."""
    ordered = ascending(addresses)
    return distinct(ordered[1:][ordered[1:] == ordered[:-1]])
