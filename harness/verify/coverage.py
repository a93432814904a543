"""Coverage: how much of the text was checked, and what could not be."""

from __future__ import annotations

import numpy as np

from harness.text.insn import InsnKind
from harness.verify.edge import EdgeKind
from harness.verify.ledger import Ledger
from harness.verify.scope import Scope
from harness.verify.successor import Bools

_FILL = (InsnKind.NOP, InsnKind.TRAP, InsnKind.BAD)


def coverage(scope: Scope, ledger: Ledger) -> dict[str, int]:
    """Return the counts of edges by kind, and of instructions that have none.

    ``unreached`` instructions have a state, but no edge leads there: entries that
    hardware or a hypervisor jumps to, code behind int3. ``blind`` ones have no
    state and are no padding; ``blind functions`` are those that hold such.
    """
    counts = {
        f"{kind.name.lower().replace('_', ' ')} edges": ledger.counts[kind]
        for kind in EdgeKind
        if ledger.counts[kind]
    }
    unreached = scope.defined & ~ledger.reached & ~scope.inside
    blind = blind_rows(scope)
    return counts | {
        "defined": int(scope.defined.sum()),
        "unreached": int(unreached.sum()),
        "blind": int(blind.sum()),
        "blind functions": len(blind_functions(scope, blind)),
    }


def blind_rows(scope: Scope) -> Bools:
    """Tell which instructions have no state although control may get there.

    Replacements are executed elsewhere, in their sites.
    """
    blind = ~scope.defined & ~np.isin(scope.columns.insns.kind, _FILL)
    for section in scope.columns.program.sections:
        if section.name != ".altinstr_replacement":
            continue
        ends = np.array([section.address, section.end], np.uint64)
        first, last = np.searchsorted(scope.columns.insns.address, ends).tolist()
        blind[first:last] = False
    return np.asarray(blind)


def blind_functions(scope: Scope, blind: Bools) -> dict[str, int]:
    """Return the symbols that hold ``blind`` instructions, and how many of them."""
    symbols = scope.columns.program.symbols
    rows = np.flatnonzero(blind)
    address = scope.columns.insns.address[rows]
    last = np.searchsorted(symbols.address, address, side="right") - 1
    start = symbols.address[np.maximum(last, 0)]
    first = np.searchsorted(symbols.address, start)
    index, count = np.unique(first[last >= 0], return_counts=True)
    return {
        symbols.name[at]: number
        for at, number in zip(index.tolist(), count.tolist(), strict=True)
    }
