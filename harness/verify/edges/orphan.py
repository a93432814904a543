"""Orphan: code of a function to which nothing leads any more.

A compiler emits no such code. What led there was an entry of a table beside the code:
a fixup of __ex_table, a branch of __jump_table, a warning of __bug_table.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from harness.elf.column import among
from harness.finding import Finding
from harness.text.insn import I64, InsnKind
from harness.verify.edges.doubt import Rule
from harness.verify.edges.ledger import Ledger
from harness.verify.edges.scope import Scope
from harness.verify.edges.switch import Switches
from harness.verify.extent import holding, typed
from harness.verify.window import excerpt

_FILL = (InsnKind.NOP, InsnKind.TRAP, InsnKind.BAD, InsnKind.ENDBR)
# Behind these code goes on elsewhere, where an operand tells: no iret, no int3.
_ENDS = (InsnKind.JMP, InsnKind.RET)
_MESSAGE = "nothing leads to this code of the function"


def orphans(scope: Scope, ledger: Ledger, switches: Switches) -> Iterator[Finding]:
    """Return a finding for each piece of code to which nothing leads.

    A function with an indirect jump that is not understood may go anywhere in itself.
    Where nobody tells how long functions are, dropped weak ones are part of others.
    """
    columns = scope.columns
    program, insns = columns.program, columns.insns
    if program.guessed:
        return
    for row in _heads(scope, ledger, switches).tolist():
        address = int(insns.address[row])
        yield Finding(
            Rule.ORPHAN.value,
            program.location(address),
            _MESSAGE,
            window=excerpt(program, insns, address),
        )


def _heads(scope: Scope, ledger: Ledger, switches: Switches) -> I64:
    """Rows at which code begins to which nothing leads."""
    insns = scope.columns.insns
    lost = scope.defined & ~ledger.reached & ~scope.inside
    rows = np.flatnonzero(lost[1:]) + 1
    rows = rows[np.isin(insns.kind[rows - 1], _ENDS) & ~insns.of_kind(*_FILL)[rows]]
    rows = rows[insns.ends(rows - 1) == insns.address[rows]]
    start, end = typed(scope.columns.program)
    owner = holding(start, end, insns.address[rows])
    jumps = np.flatnonzero(insns.kind == InsnKind.JMP_INDIRECT)
    known = np.fromiter(switches.targets, np.int64, len(switches.targets))
    open_ = holding(start, end, insns.address[jumps[~among(jumps, known)]])
    rows = rows[(owner >= 0) & ~among(owner, open_)]
    address = insns.address[rows]
    named = among(address, scope.columns.program.symbols.address)
    named |= among(address, insns.target[scope.columns.branches])
    named |= among(address, ledger.doubtful.target)
    named |= among(address, switches.mentioned)
    if (streams := scope.columns.streams) is not None:
        named |= among(address, streams.insns.target)
    return np.asarray(rows[~named])
