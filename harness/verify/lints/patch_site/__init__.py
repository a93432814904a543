"""Patch_site: the lists of places that a kernel rewrites, against its code.

objtool writes them (create_return_sites_sections() and its like in
tools/objtool/check.c). A return that is in no list keeps going to the unpatched thunk,
which protects nothing; an entry that is none makes the kernel overwrite other code.
"""

from __future__ import annotations

import numpy as np

from harness.elf.sites import SiteTable
from harness.finding import Finding
from harness.verify.columns import Columns, Part
from harness.verify.lints.patch_site.code import read_code
from harness.verify.lints.patch_site.foreign import foreign
from harness.verify.lints.patch_site.goal import (
    indirect_thunks,
    return_thunk,
    trampolines,
)
from harness.verify.lints.patch_site.key import keys
from harness.verify.lints.patch_site.missing import bare_returns, calls, endbrs, missing
from harness.verify.lints.patch_site.rule import Rule

__all__ = ["Rule", "check_patch_sites"]


def check_patch_sites(columns: Columns) -> Part:
    """Check that each list names what it is for, and all of it.

    Counts: the entries of all lists. Notes: what a list of this kernel is not for.
    """
    code = read_code(columns)
    if not code.lists:
        return Part()
    notes: list[str] = []
    goes = {
        SiteTable.RETURN_SITES: return_thunk(code),
        SiteTable.RETPOLINE_SITES: indirect_thunks(code),
        SiteTable.STATIC_CALL_SITES: trampolines(code),
    }
    findings: list[Finding] = []
    for table, each in code.lists.items():
        findings += foreign(code, each, goes.get(table, np.zeros(0, np.uint64)))
        if table in goes:
            findings += missing(code, table, goes[table], notes)
    findings += bare_returns(code, notes)
    findings += keys(code)
    findings += calls(code, np.concatenate([*goes.values()]), notes)
    findings += endbrs(code)
    counts = {"patch sites": sum(len(each.row) for each in code.lists.values())}
    return Part(tuple(findings), counts, tuple(notes))
