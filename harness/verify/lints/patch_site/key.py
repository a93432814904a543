"""Key: of static calls, each trampoline has one, and jumps are tail calls."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from harness.elf.column import among
from harness.elf.sites import SiteTable
from harness.finding import Finding
from harness.verify.lints.patch_site.code import JUMPS, Code
from harness.verify.lints.patch_site.foreign import repeated
from harness.verify.lints.patch_site.goal import TRAMPOLINE
from harness.verify.lints.patch_site.rule import Rule, finding

_KEY = "__SCK__"  # as TRAMPOLINE
_TAIL, _FLAGS = np.uint64(1), np.uint64(3)  # the low bits of a static call's key


def keys(code: Code) -> Iterator[Finding]:
    """A trampoline has one key, a key one trampoline; jumps are marked as tail calls."""
    each = code.lists.get(SiteTable.STATIC_CALL_SITES)
    if each is None or not len(code.branches.address):
        return
    branches = code.branches
    tail = np.isin(branches.kind[each.row], JUMPS) != (each.key & _TAIL != 0)
    for at in np.flatnonzero(tail & (each.row >= 0)).tolist():
        message = "a jump is a tail call, and only a jump: the entry says otherwise"
        yield finding(code.columns, int(each.address[at]), Rule.KEY, message)
    key, goes = each.key & ~_FLAGS, branches.target[each.row]
    pairs = np.stack([goes, key])[:, np.lexsort((key, goes))]
    new = (pairs[:, 1:] != pairs[:, :-1]).any(axis=0)
    pairs = pairs[:, np.append(True, new)[: len(key)]]
    odd = among(pairs[0], repeated(pairs[0])) | among(pairs[1], repeated(pairs[1]))
    program = code.columns.program
    for trampoline, wrong in pairs[:, odd].T.tolist():
        places = map(code.objects.plain, (trampoline, wrong))
        names = [str(program.location(place)) for place in places]
        if len({n.removeprefix(TRAMPOLINE).removeprefix(_KEY) for n in names}) == 1:
            continue
        for at in np.flatnonzero((goes == trampoline) & (key == wrong)).tolist():
            message = f"the call to {names[0]} has the key {names[1]}"
            yield finding(code.columns, int(each.address[at]), Rule.KEY, message)
