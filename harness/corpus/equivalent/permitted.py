"""Permitted: is another state than the clean table's true, too?

Several states can be true at once: behind ``mov %rsp,%rbp`` the frame may be counted
from either register, behind ``push %rbp`` the caller's is saved and still there.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from harness.elf.orc import OrcReg, OrcType, unpack
from harness.elf.sites import SiteTable, parse_sites
from harness.elf.symbol import STT_FUNC
from harness.text.effect import Form, effect_of
from harness.text.insn import I64, U64, Insn, InsnKind
from harness.verify.columns import Columns
from harness.verify.transfer import is_defined, step

_BP_FIELDS = 15 << 36 | 0xFFFF << 16  # of a packed state
_CALLS = (InsnKind.CALL, InsnKind.CALL_INDIRECT)
_JUMPS = (InsnKind.JMP, InsnKind.JCC)
_PUSHES = (InsnKind.PUSH, InsnKind.PUSHF)
_WRITE_BP = (
    Form.POP_BP,
    Form.LEAVE,
    Form.MOV_BP_SP,
    Form.LOAD_BP,
    Form.SET_BP,
    Form.UNKNOWN,
)


def rows_of(columns: Columns, addresses: U64) -> I64 | None:
    """Return the rows in which ``addresses`` lie; None if one lies in none."""
    rows = np.unique(columns.insns.covering(addresses))
    return None if len(rows) and rows[0] < 0 else rows


def follows(clean: Columns, mutant: Columns, rows: I64) -> bool:
    """Whether the mutant's states at ``rows`` follow on every way that leads there.

    Elsewhere both tables say the same, which is true. So by induction the other states
    are, if each is one that every instruction before it permits.
    """
    if len(rows) == 0 or _entered(clean, rows).any():
        return False
    state = _meant(mutant.state)
    goes = clean.index(clean.insns.target[clean.branches])
    jumps = np.isin(clean.insns.kind[clean.branches], _JUMPS)
    for row in rows.tolist():
        sources = clean.branches[jumps & (goes == row)]
        steps = _steps(clean, row)
        if not steps and not len(sources):
            return False
        if any(int(state[source]) != int(state[row]) for source in sources.tolist()):
            return False
        if steps and not _permits(clean, state, row):
            return False
    return True


def _meant(states: I64) -> I64:
    """Drop the offset of a %rbp that is not saved: nobody looks at it."""
    unsaved = states >> 36 & 15 == OrcReg.UNDEFINED
    return np.where(unsaved, states & ~_BP_FIELDS, states)


def _steps(columns: Columns, row: int) -> bool:
    """Whether control comes to ``row`` from the instruction in front of it."""
    insns = columns.insns
    if not row or insns.at(row - 1).end != int(insns.address[row]):
        return False
    return InsnKind(int(insns.kind[row - 1])).falls_through


def _permits(columns: Columns, state: I64, row: int) -> bool:
    """Whether the instruction in front of ``row`` leads to its state."""
    insn = columns.insns.at(row - 1)
    before = int(state[row - 1])
    if not is_defined(before) or insn.kind in _CALLS:
        return False
    base = unpack(before).sp_reg
    if base not in (OrcReg.SP, OrcReg.BP) and insn.kind not in _PUSHES:
        return False  # the transfer looks at no other register
    return int(state[row]) in step(before, insn)


def _entered(columns: Columns, rows: I64) -> npt.NDArray[np.bool_]:
    """Which of ``rows`` are entered otherwise than from an instruction's own ways."""
    program, insns = columns.program, columns.insns
    symbols = program.symbols
    named = (symbols.kind == STT_FUNC) | (symbols.size > 0)
    known = [symbols.address[named]]
    for table in (SiteTable.EX_TABLE, SiteTable.JUMP_TABLE):
        if (sites := parse_sites(program, table)) is not None:
            known.append(sites.target)
    known.append(insns.target[insns.kind == InsnKind.CALL])
    address = insns.address[rows]
    entered = np.isin(address, np.concatenate(known))
    if (table_ := columns.alternatives) is not None:
        length = table_.site_length.astype(np.uint64)
        for first, last in zip(
            table_.site_address, table_.site_address + length, strict=True
        ):
            entered |= (address >= first) & (address <= last)
    return np.asarray(entered)


def keeps_bp(clean: Columns, mutant: Columns, rows: I64) -> bool:
    """Whether the mutant only says that %rbp is the caller's, which is true.

    Nothing from the function's start to the last of ``rows`` writes it, and no jump
    from elsewhere leads in between.
    """
    before, after = _meant(clean.state[rows]), _meant(mutant.state[rows])
    same = (before & ~_BP_FIELDS) == (after & ~_BP_FIELDS)
    unsaved = (after & _BP_FIELDS) == 0
    calls = after >> 40 & 15 == OrcType.CALL
    if not len(rows) or not (same & unsaved & calls).all():
        return False
    symbols, insns = clean.program.symbols, clean.insns
    starts = np.unique(symbols.address[symbols.kind == STT_FUNC])
    first, last = int(insns.address[rows[0]]), insns.at(int(rows[-1])).end
    at = int(np.searchsorted(starts, np.uint64(first), side="right")) - 1
    if at < 0 or np.searchsorted(starts, np.uint64(last)) != at + 1:
        return False
    start = int(starts[at])
    low, high = np.searchsorted(insns.address, np.array([start, last], np.uint64))
    inside = range(int(low), int(high))
    if any(_writes_bp(insns.at(row)) for row in inside):
        return False
    target = insns.target[clean.branches]
    into = (target > np.uint64(start)) & (target < np.uint64(last))
    source = insns.address[clean.branches][into]
    return bool(((source >= np.uint64(start)) & (source < np.uint64(last))).all())


def _writes_bp(insn: Insn) -> bool:
    return effect_of(insn.kind, insn.code)[0] in _WRITE_BP
