"""Dwarf: the compiler's own account of its frames, as a second witness.

ORC and .debug_frame say the same about C code in another way. Where they differ at
most one is a fact about the table: DWARF claims a fresh frame for the cold part of a
function, and knows nothing of a stack switch or of inline assembly. So a difference
is judged where it begins: both agree on the instruction in front of it, or on the jump
that leads there, and what that instruction does tells who is right.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from harness.elf.debug_frame import RBP, RSP, SAME, UNTOLD, FrameRows
from harness.elf.orc import SIGNAL, OrcReg, OrcType, describe
from harness.finding import Finding
from harness.text.insn import I64, U64, InsnKind
from harness.verify.columns import Columns, Part
from harness.verify.transfer import step

RULE = "dwarf/frame"
_CALLS = (InsnKind.CALL, InsnKind.CALL_INDIRECT)
_REGISTERS = {RSP: OrcReg.SP, RBP: OrcReg.BP, 10: OrcReg.R10, 13: OrcReg.R13}


def check_dwarf(columns: Columns) -> Part:
    """Compare the table with the compiler's frames wherever both tell of one.

    Counts: instructions compared, those where the two differ, and of the places where
    that begins those that nothing decides.
    """
    if columns.frames is None:
        return Part()
    claims = _claims(columns, columns.frames)
    told = claims >= 0
    differs = told & (claims != columns.state)
    begins = np.flatnonzero(differs & ~np.append(False, differs[:-1]))
    jumps = np.flatnonzero(columns.insns.of_kind(InsnKind.JMP, InsnKind.JCC))
    jumps = jumps[np.argsort(columns.insns.target[jumps], kind="stable")]
    judge = _Judge(columns, claims, differs, jumps, columns.insns.target[jumps])
    findings = []
    undecided = 0
    for row in begins.tolist():
        verdict = judge.at(row)
        undecided += verdict is None
        if verdict is False:
            findings.append(_finding(columns, claims, row))
    counts = {
        "dwarf compared": int(told.sum()),
        "dwarf differs": int(differs.sum()),
        "dwarf undecided": undecided,
    }
    return Part(tuple(findings), counts)


def _claims(columns: Columns, rows: FrameRows) -> I64:
    """Return what DWARF says at each instruction as an unwind state, -1 if nothing.

    It has no word for frames of interrupts, nor for texts that may be patched in.
    """
    insns, state = columns.insns, columns.state
    claim = np.full(len(insns), -1, np.int64)
    if not len(rows):
        return claim
    row = (
        np.searchsorted(rows.address, insns.address, side="right").astype(np.int64) - 1
    )
    at = np.maximum(row, 0)
    packed, told = _packed(rows)
    told = told[at] & (row >= 0) & (state >> 40 & 15 == OrcType.CALL)
    alternatives = columns.alternatives
    if alternatives is not None:
        order = np.argsort(alternatives.site_address)
        start = alternatives.site_address[order]
        end = start + alternatives.site_length[order].astype(np.uint64)
        site = np.searchsorted(start, insns.address, side="right").astype(np.int64) - 1
        told &= (site < 0) | (insns.address >= end[np.maximum(site, 0)])
    signal = state & SIGNAL
    return np.where(told, packed[at] | signal, claim)


def _packed(rows: FrameRows) -> tuple[I64, npt.NDArray[np.bool_]]:
    """Return each row as harness.elf.orc.pack would, and which can be said so."""
    register = np.full(256, -1, np.int64)
    for number, known in _REGISTERS.items():
        register[number] = known
    base = register[rows.cfa_register]
    saved = (rows.rbp != SAME) & (rows.rbp != UNTOLD)
    told = rows.covered & (base >= 0) & (rows.rbp != UNTOLD)
    packed = rows.cfa_offset & 0xFFFF | base << 32
    packed |= np.where(saved, (rows.rbp & 0xFFFF) << 16 | OrcReg.PREV_SP << 36, 0)
    return packed | int(OrcType.CALL) << 40, told


class _Judge(Struct, frozen=True):
    columns: Columns
    claims: I64
    differs: npt.NDArray[np.bool_]
    jumps: I64  # rows of direct jumps, by target
    targets: U64

    def at(self, row: int) -> bool | None:
        """Whether the table is right where a difference begins; None if unknown."""
        table, dwarf = int(self.columns.state[row]), int(self.claims[row])
        for allowed in self._arrivals(row):
            if table in allowed:
                return True
            if dwarf in allowed:
                return False
        return None

    def _arrivals(self, row: int) -> Iterator[tuple[int, ...]]:
        """Yield the states that agreed instructions bring here."""
        insns = self.columns.insns
        address, before = insns.address[row], row - 1
        if before >= 0 and self._agreed(before):
            insn = insns.at(before)
            # behind a call there may be nothing that it returns to
            steps = insn.kind.falls_through and insn.kind not in _CALLS
            if steps and insn.end == address:
                earlier = insns.at(before - 1) if before else None
                yield step(int(self.columns.state[before]), insn, earlier)
        first, last = np.searchsorted(
            self.targets, np.array([address, address + np.uint64(1)])
        ).tolist()
        for source in self.jumps[first:last].tolist():
            if self._agreed(source):
                yield (int(self.columns.state[source]),)

    def _agreed(self, row: int) -> bool:
        return int(self.claims[row]) >= 0 and not self.differs[row]


def _finding(columns: Columns, claims: I64, row: int) -> Finding:
    insns = columns.insns
    declared, actual = int(columns.state[row]), int(claims[row])
    lines = []
    for near in range(max(0, row - 4), min(len(insns), row + 5)):
        insn = insns.at(near)
        place = str(columns.program.location(insn.address))
        claim = int(claims[near])
        sides = (
            describe(int(columns.state[near])),
            describe(claim) if claim >= 0 else "-",
        )
        mark = "->" if near == row else "  "
        lines.append(f"{mark} {place:<40} {sides[0]:<26} {sides[1]}"[:100])
    return Finding(
        rule=RULE,
        location=columns.program.location(int(insns.address[row])),
        message="the compiler's .debug_frame tells of another frame than the table",
        declared=describe(declared),
        actual=describe(actual),
        window=(f"   {'':<40} {'ORC':<26} DWARF", *lines),
    )
