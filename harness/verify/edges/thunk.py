"""Thunk: code that goes on where a register points, with the stack as it found it.

Compilers call and jump indirectly by way of such code (arch/x86/lib/retpoline.S).
It is known by what it does: ``jmp *%reg``, or a call whose return address is
overwritten with the register before it returns. In a module it is another object's:
there .retpoline_sites tells.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct, field

from harness.elf.column import among, distinct
from harness.elf.program import Program
from harness.elf.sites import SiteTable, parse_sites
from harness.text.insn import I64, U64, Insn, InsnKind, Insns
from harness.text.operand import SP, parse_encoding
from harness.verify.successor import Bools

FOLLOWED = 12  # instructions; a thunk is shorter
_PLAIN = (InsnKind.NOP, InsnKind.ENDBR, InsnKind.OTHER)


class Thunks(Struct):
    """The thunks of one program, told when they are asked for.

    Attributes:
        sites: u64[n], instructions that .retpoline_sites says use one.
    """

    insns: Insns
    sites: U64
    _known: dict[int, int] = field(default_factory=dict)

    def register(self, target: int) -> int:
        """Return the register that the thunk at ``target`` jumps to, -1 if it is none."""
        if target not in self._known:
            self._known[target] = self._judge(target)
        return self._known[target]

    def is_known(self, target: int) -> bool:
        """Tell whether ``target`` is one of the thunks found so far."""
        return self._known.get(target, -1) >= 0

    def use(self, rows: I64) -> Bools:
        """Tell of each of ``rows``, direct calls or jumps, whether it goes by a thunk."""
        targets = self.insns.target[rows]
        each = distinct(targets)
        thunk = self._may_be(each)
        thunk[thunk] = [self.register(one) >= 0 for one in each[thunk].tolist()]
        by_code = thunk[np.searchsorted(each, targets)]
        by_table = among(self.insns.address[rows], self.sites)
        return np.asarray(by_code | by_table)

    def _may_be(self, targets: U64) -> Bools:
        """Tell which of ``targets`` get as far as a jump or call that thunks have.

        Where a table is wrong every function is asked for.
        """
        insns, found = self.insns, np.zeros(len(targets), bool)
        at = insns.index(targets)
        live = np.flatnonzero(at >= 0)
        at = at[live]
        for _ in range(FOLLOWED):
            kind = insns.kind[at]
            found[live[kind == InsnKind.JMP_INDIRECT]] = True
            calls = np.flatnonzero(kind == InsnKind.CALL)
            callee = insns.index(insns.target[at[calls]])
            code = insns.code[np.maximum(callee, 0)]
            store = (callee >= 0) & (code[:, 0] & 0xF8 == 0x48) & (code[:, 1] == 0x89)
            found[live[calls[store]]] = True
            jump = kind == InsnKind.JMP
            goes = np.where(jump, insns.target[at], insns.address[at] + insns.size[at])
            at = insns.index(goes)
            on = (jump | np.isin(kind, _PLAIN)) & (at >= 0)
            at, live = at[on], live[on]
        return found

    def _judge(self, target: int) -> int:
        at = target
        for _ in range(FOLLOWED):
            insn = self._insn(at)
            if insn is None:
                break
            if insn.kind is InsnKind.JMP_INDIRECT:
                encoding = parse_encoding(insn.code)
                return encoding.base if encoding.mod == 3 else -1
            if insn.kind is InsnKind.CALL:
                return self._called(insn.target)
            if insn.kind is InsnKind.JMP:
                at = insn.target
            elif insn.kind in _PLAIN:
                at = insn.end
            else:
                break
        return -1

    def _called(self, target: int) -> int:
        """``mov %reg,(%rsp)``, then a return or a jump to one."""
        store = self._insn(target)
        if store is None or (after := self._insn(store.end)) is None:
            return -1
        encoding = parse_encoding(store.code)
        on_top = encoding.mod != 3 and encoding.base == SP and not encoding.indexed
        overwrites = encoding.opcode == 0x89 and encoding.wide and on_top
        if not overwrites or encoding.displacement:
            return -1
        leaves = after.kind in (InsnKind.RET, InsnKind.JMP)
        return encoding.reg if leaves else -1

    def _insn(self, address: int) -> Insn | None:
        row = int(self.insns.index(np.array([address], np.uint64))[0])
        return None if row < 0 else self.insns.at(row)


def thunks_of(program: Program, insns: Insns) -> Thunks:
    """Return the thunks of ``program``."""
    sites = parse_sites(program, SiteTable.RETPOLINE_SITES)
    nothing = np.zeros(0, np.uint64)
    return Thunks(insns, nothing if sites is None else sites.address)
