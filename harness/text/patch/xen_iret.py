"""Xen_iret: one jump that a Xen PV guest writes by hand, before all else.

``early_xen_iret_patch`` is a jump to the native IRET, which xen_start_kernel() turns to
xen_iret(). Source: arch/x86/xen/enlighten_pv.c, 5.13 and later.
"""

from __future__ import annotations

import numpy as np

from harness.elf.program import Program
from harness.text.patch.choice import XENPV
from harness.text.patch.edits import Edits, Step, column, near
from harness.text.patch.said import Said, code_at


def xen_iret(program: Program, said: Said) -> Edits | None:
    """Return the jump as the machine has it."""
    at, target = said.address("early_xen_iret_patch"), said.address("xen_iret")
    if not at or not target:
        return None
    address = np.array([at], np.uint64)
    xen = bool(said.features[XENPV])
    code = code_at(program, address, 5)
    if xen:
        code = near(b"\xe9", address, np.array([target], np.uint64))
    variant = np.array([int(xen)], np.int64)
    return column(Step.XEN_IRET, address, code, variant, ("native", "xen"))
