"""Smp_lock: lock prefixes, which a kernel with one CPU makes a prefix without meaning.

Source: alternatives_smp_unlock() of arch/x86/kernel/alternative.c, up to 7.2. What lies
behind _etext is left alone: it is init code.
"""

from __future__ import annotations

import numpy as np

from harness.elf.program import Program
from harness.elf.sites import SiteTable, parse_sites
from harness.text.patch.edits import Edits, Step, column
from harness.text.patch.said import Said, code_at

_LOCK, _DS = 0xF0, 0x3E
_VARIANTS = ("lock", "ds")


def smp_locks(program: Program, said: Said) -> Edits | None:
    """Return what becomes of the lock prefixes of ``program``."""
    sites = parse_sites(program, SiteTable.SMP_LOCKS)
    if sites is None:
        return None
    first, last = said.address("_text"), said.address("_etext")
    inside = (sites.address >= np.uint64(first)) & (sites.address < np.uint64(last))
    address = sites.address[inside]
    code = code_at(program, address, 1)
    alone = bool(said.variable("uniproc_patched", 1))
    turned = (code[:, 0] == _LOCK) & alone
    code[turned] = _DS
    return column(Step.SMP_LOCK, address, code, turned.astype(np.int64), _VARIANTS)
