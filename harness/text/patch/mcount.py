"""Mcount: calls of __fentry__ that ftrace turns to NOPs when it starts.

Source: ftrace_init() and ftrace_nop_replace() of arch/x86/kernel/ftrace.c: the NOP of
five bytes. Where objtool has done it (CONFIG_HAVE_OBJTOOL_NOP_MCOUNT) nothing is left
to do. A function that is traced when the memory is read has a call again: it is seen.
"""

from __future__ import annotations

import numpy as np

from harness.elf.program import Program
from harness.elf.sites import SiteTable, parse_sites
from harness.text.patch.edits import Edits, Step, column
from harness.text.patch.said import Said, code_at

_VARIANTS = ("nop",)


def mcount_nops(program: Program, said: Said) -> Edits | None:
    """Return what becomes of the calls of __fentry__."""
    sites = parse_sites(program, SiteTable.MCOUNT_LOC)
    if sites is None:
        return None
    address = np.unique(sites.address[program.in_code(sites.address)])
    code = code_at(program, address, 5)
    calls = code[:, 0] == 0xE8
    code[calls] = np.frombuffer(said.nop5, np.uint8)
    return column(
        Step.MCOUNT, address, code, np.zeros(len(address), np.int64), _VARIANTS
    )
