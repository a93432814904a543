"""Coverage: how much of the text was checked, and what could not be."""

from __future__ import annotations

import numpy as np

from harness.text.insn import InsnKind
from harness.verify.edges.edge import EdgeKind
from harness.verify.edges.ledger import Ledger
from harness.verify.edges.scope import Scope
from harness.verify.successor import Bools

_FILL = (InsnKind.NOP, InsnKind.TRAP, InsnKind.BAD)


def coverage(scope: Scope, ledger: Ledger) -> dict[str, int]:
    """Return the counts of edges by kind, and of instructions that have none.

    ``unreached`` instructions have a state, but no edge leads there: entries that
    hardware or a hypervisor jumps to, code behind int3. ``blind`` ones have no
    state and are no padding.
    """
    counts = {
        f"{kind.name.lower().replace('_', ' ')} edges": ledger.counts[kind]
        for kind in EdgeKind
        if ledger.counts[kind]
    }
    unreached = scope.defined & ~ledger.reached & ~scope.inside
    return counts | {
        "defined": int(scope.defined.sum()),
        "unreached": int(unreached.sum()),
        "blind": int(blind_rows(scope).sum()),
    }


def blind_rows(scope: Scope) -> Bools:
    """Tell which instructions have no state although control may get there.

    Replacements are executed elsewhere, in their sites.
    """
    blind = ~scope.defined & ~scope.columns.insns.of_kind(*_FILL)
    for section in scope.columns.program.named(".altinstr_replacement"):
        ends = np.array([section.address, section.end], np.uint64)
        first, last = np.searchsorted(scope.columns.insns.address, ends).tolist()
        blind[first:last] = False
    return np.asarray(blind)
