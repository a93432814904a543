"""Callee: what a called function does to its caller's stack, by its own ORC.

Nearly all leave it as they found it. A few of the entry code's return with %rsp
moved (error_entry leaves the registers that it saved), and some never return. Both
are read off the callee's own exits, never off its name.
"""

from __future__ import annotations

import enum

import numpy as np
from msgspec import Struct, field
from msgspec.structs import replace

from harness.elf.orc import OrcReg, pack, unpack
from harness.elf.program import Program
from harness.text.effect import WORD
from harness.text.insn import InsnKind, Insns
from harness.verify.lookup import Lookup
from harness.verify.transfer import ENTRY, is_defined


class Returns(enum.Enum):
    """How a function comes back to its caller."""

    BALANCED = "balanced"
    NEVER = "never"  # it has no exit at all
    MOVED = "moved"  # with the state in ``Callee.state``
    UNCLEAR = "unclear"


class Callee(Struct, frozen=True):
    """How one function returns; ``state`` holds right after the call if MOVED."""

    returns: Returns
    state: int = 0


_BALANCED = Callee(Returns.BALANCED)
TRACED = 4096  # instructions; what is longer is no entry code


class Callees(Struct):
    """The functions of one program, judged when they are asked for."""

    program: Program
    insns: Insns
    lookup: Lookup
    _known: dict[int, Callee] = field(default_factory=dict)

    def at(self, target: int) -> Callee:
        """Judge the function at ``target``; unknown code is taken as balanced."""
        if (known := self._known.get(target)) is None:
            known = self._known[target] = self._judge(target)
        return known

    def _judge(self, target: int) -> Callee:
        symbols = self.program.symbols
        index = symbols.index(target)
        exact = index >= 0 and int(symbols.address[index]) == target
        size = int(symbols.size[index]) if exact else 0
        if exact and symbols.section[index] < 0:
            return _BALANCED
        if not size:
            return self._trace(target)
        first, last = np.searchsorted(
            self.insns.address, np.array([target, target + size], np.uint64)
        ).tolist()
        body = self.insns.take(slice(first, last))
        return self._exits(body, target, target + size)

    def _exits(self, body: Insns, first: int, last: int) -> Callee:
        """Judge by the states at which control leaves [first, last)."""
        leaves = np.isin(body.kind, (InsnKind.RET, InsnKind.JMP_INDIRECT))
        outside = (body.target < np.uint64(first)) | (body.target >= np.uint64(last))
        jumps = np.isin(body.kind, (InsnKind.JMP, InsnKind.JCC)) & outside
        goes = self.lookup.at(body.target[jumps])
        # a jump to where the same frame is live is no exit: the rest is elsewhere
        tail = np.array([s == ENTRY or not is_defined(s) for s in goes.tolist()], bool)
        exits = [*body.address[leaves].tolist(), *body.address[jumps][tail].tolist()]
        if exits:
            states = set(self.lookup.at(np.array(exits, np.uint64)).tolist())
            return _from_exits(states, complete=bool(tail.all()))
        if len(tail):
            return Callee(Returns.UNCLEAR)
        # falling off its end is an exit that we do not follow
        runs_off = not len(body) or InsnKind(int(body.kind[-1])).falls_through
        return _BALANCED if runs_off else Callee(Returns.NEVER)

    def _trace(self, target: int) -> Callee:
        """Judge by following the code, where no symbol tells its extent."""
        todo = [self._row(target)]
        seen: set[int] = set()
        states: set[int] = set()
        while todo and len(seen) < TRACED:
            row = todo.pop()
            if row < 0 or row in seen:
                continue
            seen.add(row)
            insn = self.insns.at(row)
            state = self.lookup.one(insn.address)
            if insn.kind in (InsnKind.RET, InsnKind.JMP_INDIRECT):
                states.add(state)
            elif insn.kind in (InsnKind.JMP, InsnKind.JCC):
                goes = self.lookup.one(insn.target)
                if goes != state and (goes == ENTRY or not is_defined(goes)):
                    states.add(state)
                else:
                    todo.append(self._row(insn.target))
            if ENTRY in states:
                return _BALANCED
            if insn.kind.falls_through:
                todo.append(self._row(insn.end))
        return _from_exits(states, complete=not todo) if states else _BALANCED

    def _row(self, address: int) -> int:
        return int(self.insns.index(np.array([address], np.uint64))[0])


def _from_exits(states: set[int], *, complete: bool) -> Callee:
    if ENTRY in states or not all(is_defined(state) for state in states):
        return _BALANCED
    entry = unpack(states.pop())
    if states or not complete or entry.sp_reg != OrcReg.SP:
        return Callee(Returns.UNCLEAR)
    after = replace(entry, sp_offset=entry.sp_offset - WORD)
    return Callee(Returns.MOVED, pack(after))
