"""Predict: the whole text of a running kernel, step by step as the kernel makes it.

The order is the kernel's: what runs before alternative_instructions(), its own steps
(arch/x86/kernel/alternative.c), then what goes on being patched while the kernel runs,
by what it holds now. A step that a kernel has not leaves nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from msgspec import Struct

from harness.elf.program import Program, Section
from harness.text.insn import I64
from harness.text.patch.call_thunk import call_thunks, module_call_pads
from harness.text.patch.edits import Edits, Step, inside, offsets, written
from harness.text.patch.endbr import endbr_seals
from harness.text.patch.fineibt import (
    fineibt,
    fineibt_endbrs,
    sealed_hashes,
    sealed_preambles,
)
from harness.text.patch.jump_label import jump_labels
from harness.text.patch.mcount import mcount_nops
from harness.text.patch.retpoline import retpolines
from harness.text.patch.return_site import return_sites
from harness.text.patch.runtime_const import runtime_consts
from harness.text.patch.said import Said
from harness.text.patch.site import alternatives, paravirt_calls
from harness.text.patch.smp_lock import smp_locks
from harness.text.patch.static_call import (
    static_call_pads,
    static_calls,
    static_tramps,
)
from harness.text.patch.xen_iret import xen_iret

Stepping = Callable[[Program, Said], Edits | None]

_FIRST: tuple[Stepping, ...] = (
    xen_iret,
    runtime_consts,
    paravirt_calls,
    fineibt,
    fineibt_endbrs,
    retpolines,
    return_sites,
)
_LAST: tuple[Stepping, ...] = (
    endbr_seals,
    sealed_preambles,
    sealed_hashes,
    smp_locks,
    mcount_nops,
    jump_labels,
    static_call_pads,
    static_calls,
    static_tramps,
    module_call_pads,
)


def steps_of(program: Program) -> tuple[Stepping, ...]:
    """Return the steps of the kernel ``program``, in its order.

    Since 6.17, whose objtool tells the size of an alternative's entry, calls are counted
    before alternatives make any more of them.
    """
    table = program.section(".altinstructions")
    if table is not None and table.entsize:
        return (*_FIRST, call_thunks, alternatives, *_LAST)
    return (*_FIRST, alternatives, call_thunks, *_LAST)


class Prediction(Struct, frozen=True):
    """A kernel's text as one machine has it.

    Attributes:
        linked: the kernel as it was linked.
        program: as it is predicted to be.
        edits: of each step, in the kernel's order.
    """

    linked: Program
    program: Program
    edits: tuple[Edits, ...]

    def owners(self, section: Section) -> I64:
        """Return for each byte of ``section`` the last of ``edits`` for it, or -1."""
        owner = np.full(section.size, -1, np.int64)
        for number, edits in enumerate(self.edits):
            places, _ = edits.flat()
            rows = inside(section, places)
            owner[offsets(section, places[rows])] = number
        return owner

    def step(self, number: int) -> Step:
        """Return which step the edits ``number`` are of."""
        return self.edits[number].step


def predict(program: Program, said: Said) -> Prediction:
    """Return the text of ``program`` on the machine that ``said`` all that.

    Raises:
        FormatError: a table of the kernel makes no sense.
    """
    text, done = program, []
    for stepping in steps_of(program):
        edits = stepping(text, said)
        if edits is not None and len(edits):
            text = written(text, edits)
            done.append(edits)
    return Prediction(program, text, tuple(done))
