"""Realign: frames whose stack was aligned anew, counted from what it was before.

gcc aligns the stack of a function that wants more than the ABI gives (-mstackrealign,
big alignments of locals): a register keeps the CFA, then a slot below %rbp does::

    lea 8(%rsp),%r10        the register becomes the CFA
    and $-16,%rsp           sp+8    ->  r10
    push -8(%r10)
    push %rbp
    mov %rsp,%rbp           r10     ->  r10 bp:bp+0
    push %r10               r10     ->  (bp-8) bp:bp+0
    ...
    pop %r10                (bp-8)  ->  r10 bp:bp+0
    pop %rbp                r10 bp:bp+0  ->  r10
    lea -8(%r10),%rsp       r10     ->  sp+8
    ret

Each of these steps is proved here by itself, and so is what none of them shows: that
the register and the slot are left alone in between. What is no such step, and where
something may touch them, is left in doubt: it is executed.
Source: tools/objtool/check.c (6.12), update_cfi_state(), ``drap``.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from harness.elf.column import among
from harness.elf.orc import OrcReg, OrcType
from harness.text.code import CODE_BYTES
from harness.text.effect import WORD, moved, popped
from harness.text.insn import I64, U8, Insn, InsnKind
from harness.text.operand import BP, SP, Encoding, parse_encoding
from harness.verify.edges.depth import Depths
from harness.verify.edges.edge import EdgeKind, Edges
from harness.verify.edges.frame.operation import VOLATILE, Form, Operation, operation
from harness.verify.edges.noreturn import Ways
from harness.verify.edges.scope import Scope
from harness.verify.successor import Bools

# The registers that keep a CFA, as encodings number them.
_NUMBER = {
    OrcReg.AX: 0,
    OrcReg.DX: 2,
    OrcReg.DI: 7,
    OrcReg.R10: 10,
    OrcReg.R13: 13,
}
_BACK = 6  # instructions between the lea and the and, pushes mostly
_CALLS = (InsnKind.CALL, InsnKind.CALL_INDIRECT)
_PUSHES = (InsnKind.PUSH, InsnKind.PUSHF, *_CALLS)
_WIDEST = 64  # bytes that one instruction stores
_STORES = (Form.STORE, Form.SWAP_MEMORY, Form.WIPE, Form.POP_OTHER)


class Realigned(Struct, frozen=True):
    """What came of it.

    Attributes:
        proved: bool[edges], doubtful edges that are such steps.
        unsure: i64[k], rows behind which the register or the slot may be another's.
    """

    proved: Bools
    unsure: I64


def realign(scope: Scope, doubtful: Edges, depths: Depths, ways: Ways) -> Realigned:
    """Prove those of ``doubtful`` that are steps of frames which were aligned anew."""
    rows = _rows_of(scope)
    proved = np.zeros(len(doubtful), bool)
    if not len(rows):
        return Realigned(proved, rows)
    steps = np.flatnonzero((doubtful.kind == EdgeKind.STEP) & (doubtful.source >= 0))
    source = doubtful.source[steps]
    before, after = scope.state[source], scope.behind(source)
    some = _is_kept(before) | _is_kept(after)
    steps, source = steps[some], source[some]
    proof = _Proof(scope, depths, ways)
    at, known = depths.at(source)
    proved[steps] = [
        not scope.inside[row] and proof.step(row, start, end, depth if sure else None)
        for row, start, end, depth, sure in zip(
            source.tolist(),
            before[some].tolist(),
            after[some].tolist(),
            at.tolist(),
            known.tolist(),
            strict=True,
        )
    ]
    kept = scope.state[rows] >> 32 & 15 != OrcReg.BP_INDIRECT
    unsure = np.concatenate(
        [
            _unsure_registers(scope, rows[kept]),
            _unsure_slots(scope, rows[~kept], depths),
        ]
    )
    decided = among(unsure, doubtful.source[doubtful.kind == EdgeKind.STEP])
    return Realigned(proved, np.sort(unsure[~decided]))


def _rows_of(scope: Scope) -> I64:
    """Return the rows where a register or a slot below %rbp keeps the CFA."""
    lookup = scope.columns.lookup
    entries = np.flatnonzero(_is_kept(lookup.state))
    ends = np.append(lookup.ip, np.uint64(2**64 - 1))
    address = scope.columns.insns.address
    first = np.searchsorted(address, ends[entries])
    size = np.searchsorted(address, ends[entries + 1]) - first
    within = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
    rows: I64 = np.repeat(first, size) + within
    return rows


def _is_kept(states: I64) -> Bools:
    """Tell which states count a call's frame from a register, or from a slot."""
    base = states >> 32 & 15
    kept = np.isin(base, (*_NUMBER, OrcReg.BP_INDIRECT))
    return np.asarray(kept & (states >> 40 & 15 == OrcType.CALL))


class _State(Struct, frozen=True):
    """The fields of a packed state, offsets signed."""

    base: int
    offset: int
    rest: int  # what is said of %rbp, the type and the flags

    @property
    def register(self) -> int:
        """The register that is the CFA, as encodings number it; -1 if none is."""
        kept = self.offset == 0 and self.base in _NUMBER
        return _NUMBER[OrcReg(self.base)] if kept else -1


_REST = ~(15 << 32 | 0xFFFF)
_BP_FIELDS = 15 << 36 | 0xFFFF << 16
_AT_BP = OrcReg.BP << 36  # the caller's %rbp lies where %rbp points to


def _state(packed: int) -> _State:
    offset = (packed & 0xFFFF ^ 0x8000) - 0x8000
    return _State(packed >> 32 & 15, offset, packed & _REST)


class _Proof:
    """Proves single steps."""

    def __init__(self, scope: Scope, depths: Depths, ways: Ways) -> None:
        self._scope = scope
        insns = scope.columns.insns
        entered = np.zeros(len(insns) + 1, bool)
        for goes in (scope.goes, scope.inner_goes, scope.columns.index(ways.target)):
            entered[goes] = True  # -1 is the one too many
        entered[scope.columns.index(scope.functions)] = True
        self._entered = entered

    def step(self, row: int, before: int, after: int, depth: int | None) -> bool:
        """Whether ``row`` leads from one packed state to the other.

        ``depth`` is how far %rsp is above %rbp in front of it, None if unknown.
        """
        insn = self._scope.columns.insns.at(row)
        one, two = _state(before), _state(after)
        encoding = parse_encoding(insn.code)
        if insn.kind is InsnKind.STACK:
            if one.base == OrcReg.SP and two.register >= 0:
                return one.rest == two.rest and self._copied(row, two.register)
            return one.rest == two.rest and _back(encoding, one, two)
        if insn.kind is InsnKind.FRAME:
            return self._based(row, encoding, before, after)
        if insn.kind is InsnKind.PUSH:
            keeps = one.register >= 0 and two.base == OrcReg.BP_INDIRECT
            keeps &= one.rest == two.rest and one.rest & _BP_FIELDS == _AT_BP
            return (
                keeps
                and _pushed(encoding) == one.register
                and (depth is not None and depth - WORD == two.offset)
            )
        if insn.kind is InsnKind.LEAVE:
            return _unbased(before, after)
        if insn.kind is InsnKind.POP and popped(encoding) == BP and not encoding.narrow:
            return depth == 0 and _unbased(before, after)
        return _restored(insn, encoding, one, two, depth)

    def _before(self, row: int) -> Insn | None:
        """The instruction that alone leads to ``row``, if one does."""
        if not row or self._entered[row] or not self._scope.falls[row - 1]:
            return None
        insns = self._scope.columns.insns
        insn = insns.at(row - 1)
        return insn if insn.end == int(insns.address[row]) else None

    def _copied(self, row: int, register: int) -> bool:
        """Whether ``register`` is the CFA at ``row``: a lea has made it so."""
        for at in range(row, row - _BACK, -1):
            insn = self._before(at)
            if insn is None or insn.kind in _CALLS or self._scope.inside[at - 1]:
                return False
            state = _state(int(self._scope.state[at - 1]))
            done = operation(insn.kind, insn.code)
            if state.base != OrcReg.SP:
                return False
            if done.form is Form.LEA and done.reg == register:
                return done.base == SP and done.k == state.offset
            if (done.lost | done.written) >> register & 1:
                return False
        return False

    def _based(self, row: int, encoding: Encoding, before: int, after: int) -> bool:
        """``mov %rsp,%rbp`` behind ``push %rbp``, of the caller's %rbp."""
        insn = self._before(row)
        if insn is None or moved(encoding) != (SP, BP) or before & _BP_FIELDS:
            return False
        pushed = insn.kind is InsnKind.PUSH and _pushed(parse_encoding(insn.code)) == BP
        same = int(self._scope.state[row - 1]) == before
        return (
            pushed
            and same
            and after == before | _AT_BP
            and not self._scope.inside[row - 1]
        )


def _pushed(encoding: Encoding) -> int:
    """Return the register that a push stores, -1 if it is none."""
    if encoding.opcode & 0xF8 != 0x50 or encoding.narrow:
        return -1
    return encoding.opcode & 7 | (encoding.rex & 1) << 3


def _back(encoding: Encoding, one: _State, two: _State) -> bool:
    """``lea -n(%register),%rsp``: the stack as it was before."""
    plain = encoding.opcode == 0x8D and encoding.wide and encoding.mod != 3
    plain &= not encoding.indexed and not encoding.narrow and not encoding.elsewhere
    leads = one.register >= 0 and encoding.base == one.register and encoding.reg == SP
    return (
        plain
        and leads
        and two.base == OrcReg.SP
        and two.offset == -encoding.displacement
    )


def _unbased(before: int, after: int) -> bool:
    """%rbp is the caller's again, from where it points to; the CFA is in a register."""
    return (
        _state(before).register >= 0
        and before & _BP_FIELDS == _AT_BP
        and after == before & ~_BP_FIELDS
    )


def _restored(
    insn: Insn, encoding: Encoding, one: _State, two: _State, depth: int | None
) -> bool:
    """The register gets the CFA back from the slot, by a pop or a load."""
    if one.base != OrcReg.BP_INDIRECT or two.register < 0 or one.rest != two.rest:
        return False
    done = operation(insn.kind, insn.code)
    if done.reg != two.register:
        return False
    if done.form is Form.POP:
        return depth == one.offset
    return done.form is Form.LOAD and done.base == BP and done.k == one.offset


def _unsure_registers(scope: Scope, rows: I64) -> I64:
    """Return those of ``rows`` that may change the register which is the CFA.

    Or %rbp, where the caller's lies at it.
    """
    insns = scope.columns.insns
    unsure = []
    for row, state in zip(rows.tolist(), scope.state[rows].tolist(), strict=True):
        insn = insns.at(row)
        kept = 1 << _NUMBER[OrcReg(state >> 32 & 15)]
        if state & _BP_FIELDS == _AT_BP:
            kept |= 1 << BP
        done = operation(insn.kind, insn.code)
        changed = VOLATILE if insn.kind in _CALLS else done.lost | done.written
        if done.form in (Form.LEAVE, Form.ENTER):
            changed |= 1 << BP
        if changed & kept or scope.inside[row]:
            unsure.append(row)
    return np.array(unsure, np.int64)


def _unsure_slots(scope: Scope, rows: I64, depths: Depths) -> I64:
    """Return those of ``rows`` that may store to the slot which holds the CFA."""
    insns = scope.columns.insns
    slot = scope.state[rows].astype(np.int16).astype(np.int64)
    depth, known = depths.at(rows)
    pushes = np.isin(insns.kind[rows], _PUSHES)
    unsure = pushes & ~(known & (depth <= slot))
    at = np.where(known, depth, slot)  # unknown: as near as can be
    near = np.flatnonzero(
        ~pushes & _may_reach(insns.code[rows], insns.size[rows], slot, at)
    )
    for n in near.tolist():
        insn = insns.at(int(rows[n]))
        done = operation(insn.kind, insn.code)
        unsure[n] = _overlaps(done, int(slot[n]), int(depth[n]) if known[n] else None)
    return np.asarray(rows[unsure])


def _overlaps(done: Operation, slot: int, depth: int | None) -> bool:
    """Whether ``done`` stores to the word at ``slot`` from %rbp."""
    if done.form not in _STORES or done.base not in (SP, BP):
        return False
    if done.base == SP and depth is None:
        return True
    first = done.k + (depth or 0 if done.base == SP else 0)
    return first < slot + WORD and slot < first + done.size


def _may_reach(code: U8, size: U8, slot: I64, depth: I64) -> Bools:
    """Tell which instructions may have an operand near ``slot``, by their bytes alone.

    Any byte is taken for a ModRM that counts from %rsp or %rbp: what is none says so
    too often, never too rarely.
    """
    found = np.zeros(len(code), bool)
    padded = np.concatenate([code, np.zeros((len(code), CODE_BYTES), np.uint8)], axis=1)
    for at in range(1, CODE_BYTES):
        modrm = code[:, at]
        mod = modrm >> 6
        sib = (modrm & 7 == SP) & (mod < 3)
        base = np.where(sib, padded[:, at + 1], modrm) & 7
        counts = (
            ((base == SP) & sib | (base == BP) & (mod > 0)) & (mod < 3) & (size > at)
        )
        rows = np.flatnonzero(counts)
        if not len(rows):
            continue
        field = rows, at + 1 + sib[rows]
        byte = padded[field].view(np.int8).astype(np.int64)
        wide = np.stack([padded[rows, field[1] + n] for n in range(4)], axis=1)
        long = np.ascontiguousarray(wide).view("<i4")[:, 0].astype(np.int64)
        offset = np.choose(mod[rows], [np.zeros(len(rows), np.int64), byte, long])
        offset += np.where(base[rows] == SP, depth[rows], 0)
        near = (offset > slot[rows] - _WIDEST) & (offset < slot[rows] + WORD)
        found[rows[near]] = True
    return found
