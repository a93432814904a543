"""Dead: the instructions of a program that no control reaches."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from harness.elf.sites import SiteTable, parse_sites
from harness.elf.symbol import STT_NOTYPE
from harness.text.insn import InsnKind
from harness.verify.columns import Columns
from harness.verify.transfer import UNDEFINED

_FILL = (InsnKind.NOP, InsnKind.TRAP)


def dead(columns: Columns) -> npt.NDArray[np.bool_]:
    """Tell which instructions no control reaches: bool[insns].

    Of what lies behind an instruction that does not fall through, and at which
    nothing points (no branch, no symbol, no side table):

    * int3, behind a call too: it says that the call does not return;
    * NOPs, if something points at what follows them: they align it;
    * what has no state in the clean table, behind a call too: the clean table says
      that the call does not return, and the clean kernel has been validated.

    A branch from dead code leads nowhere, and a label at an int3 is an end that code
    is compared with (entry_SYSRETQ_end), unless it is a function's.
    """
    found = np.zeros(len(columns.insns), bool)
    while (more := _dead(columns, found)).sum() > found.sum():
        found = more
    return found


def _dead(columns: Columns, known: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return what is dead if the ``known`` instructions are."""
    insns = columns.insns
    pointed = _pointed(columns, known)
    trap = insns.kind == InsnKind.TRAP
    silent = columns.state == UNDEFINED
    may = (np.isin(insns.kind, _FILL) | silent) & ~pointed
    adjacent = np.zeros(len(insns), bool)  # to the one before
    adjacent[1:] = insns.end[:-1] == insns.address[1:]
    falls = np.array([kind.falls_through for kind in InsnKind])
    before = np.roll(insns.kind, 1)
    call = np.isin(before, (InsnKind.CALL, InsnKind.CALL_INDIRECT))
    starts = may & (~(falls[before] & adjacent) | (call & (trap | silent)))
    follows = np.roll(pointed | ~adjacent, -1)
    reached = _runs(starts, may)
    ends = _runs((may & follows)[::-1], may[::-1])[::-1]
    return np.asarray(reached & (ends | trap | silent))


def _pointed(columns: Columns, dead: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Tell at which instructions a live branch, a symbol or a side table points."""
    program, insns = columns.program, columns.insns
    symbols = program.symbols
    labels = (symbols.kind == STT_NOTYPE) & (symbols.size == 0)
    known = [insns.target[~dead], symbols.address[~labels]]
    for table in (SiteTable.EX_TABLE, SiteTable.JUMP_TABLE):
        if (sites := parse_sites(program, table)) is not None:
            known += [sites.address, sites.target]
    at = insns.index(np.unique(np.concatenate(known)))
    pointed = np.zeros(len(insns), bool)
    pointed[at[at >= 0]] = True
    at = insns.index(np.unique(symbols.address[labels]))
    at = at[at >= 0]
    pointed[at[insns.kind[at] != InsnKind.TRAP]] = True
    return pointed


def _runs(
    starts: npt.NDArray[np.bool_], member: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Return the members that follow a start without a break."""
    place = np.arange(len(member))
    last_start = np.maximum.accumulate(np.where(starts, place, -1))
    last_break = np.maximum.accumulate(np.where(member, -1, place))
    return np.asarray(member & (last_start > last_break))
