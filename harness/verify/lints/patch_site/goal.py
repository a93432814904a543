"""Goal: where the branches of a list go, as most of them tell."""

from __future__ import annotations

import numpy as np

from harness.elf.column import among, distinct
from harness.elf.sites import SiteTable
from harness.text.insn import U64, InsnKind
from harness.verify.lints.patch_site.code import Code

# What the compiler and objtool call them: their interface with the kernel.
_RETURN_THUNK = "__x86_return_thunk"
_INDIRECT_THUNK = "__x86_indirect_thunk_"
TRAMPOLINE = "__SCT__"  # of a static call
_TRAMPOLINE_END = np.frombuffer(b"\x0f\xb9\xcc", np.uint8)  # behind its 5-byte jump


def return_thunk(code: Code) -> U64:
    """The one function that returns of an object jump to."""
    named = _external(code, _RETURN_THUNK)
    if code.objects.several:  # they share what is external
        named = named[among(named, code.branches.target)]
    goes = _targets(code, SiteTable.RETURN_SITES)
    goes = goes[~among(code.objects.owner(goes), code.objects.owner(named))]
    often = np.unique(code.objects.owner(goes), return_index=True)[1]
    return np.concatenate([named, goes[often]])


def indirect_thunks(code: Code) -> U64:
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


def trampolines(code: Code) -> U64:
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
        if str(program.location(code.objects.plain(place))).startswith(TRAMPOLINE)
    ]
    known = np.concatenate([found, np.array(others, np.uint64)])
    unknown = ~among(code.objects.owner(goes), code.objects.owner(known))
    return np.concatenate([known, goes[unknown]])


def _external(code: Code, prefix: str) -> U64:
    """Functions of other objects by the beginning of their names, for each object."""
    externals = code.columns.program.externals.items()
    found = [
        code.objects.each(place) for place, name in externals if name.startswith(prefix)
    ]
    return np.concatenate([np.zeros(0, np.uint64), *found])


def _targets(code: Code, table: SiteTable, most: int | None = None) -> U64:
    """Where a list's branches go, often ones first; or ``most`` times at most."""
    if table not in code.lists:
        return np.zeros(0, np.uint64)
    row = code.lists[table].row
    target = code.branches.target[row[row >= 0]]
    unique, count = np.unique(target, return_counts=True)
    if most is not None:
        return np.asarray(unique[count <= most])
    return np.asarray(unique[np.argsort(-count, kind="stable")])
