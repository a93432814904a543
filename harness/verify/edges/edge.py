"""Edge: one way on which control goes from an instruction to another, as columns.

The table is right if its state is right where control enters, and stays right along
every edge. What kinds there are says what must hold at both ends.
"""

from __future__ import annotations

import enum

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from harness.text.insn import I64, U8, U64

NO_ROW = -1  # the source of an edge that comes from no instruction of ours


class EdgeKind(enum.IntEnum):
    """Why control goes there; in the comment what must hold."""

    STEP = 0  # the next instruction: its state is what the source makes of its own
    BRANCH = 1  # a direct jump: both states are equal
    CALL = 2  # a direct call: a function's entry state at its target
    RETURN_ADDRESS = 3  # the state where the unwinder looks, one byte before the return
    RETURN = 4  # ret: the frame of the source is as it was at the function's entry
    TAIL = 5  # a jump that leaves the function for good: as for RETURN
    FUNCTION = 6  # a function symbol: a function's entry state
    EX_TABLE = 7  # from what may fault to its fixup: both states are equal
    JUMP_TABLE = 8  # an indirect jump to one of its targets: both states are equal
    JUMP_LABEL = 9  # a static key's branch: both states are equal
    STATIC_CALL = 10  # a static call that jumps, as for RETURN
    BUG = 11  # behind ud1 or ud2 that is a warning: both states are equal
    RETPOLINE = 12  # an indirect jump by a thunk, as for RETURN


class Edges(Struct, frozen=True):
    """Edges as columns, in any order.

    Attributes:
        kind: u8[n], an EdgeKind each.
        source: i64[n], row of the instruction it leaves; NO_ROW for FUNCTION.
        target: u64[n], the address it leads to. RETURN, and TAIL, STATIC_CALL and
            RETPOLINE that go to no known place, have 0.
    """

    kind: U8
    source: I64
    target: U64

    def __len__(self) -> int:
        return len(self.kind)

    def take(self, rows: I64 | npt.NDArray[np.bool_]) -> Edges:
        """Return the edges at ``rows``."""
        return Edges(self.kind[rows], self.source[rows], self.target[rows])


def edges(kind: EdgeKind, source: I64, target: U64) -> Edges:
    """Return edges of one kind."""
    return Edges(np.full(len(source), kind, np.uint8), source, target)


def join(parts: list[Edges]) -> Edges:
    """Return the edges of ``parts``, one after the other."""
    parts = [
        edges(EdgeKind.STEP, np.zeros(0, np.int64), np.zeros(0, np.uint64)),
        *parts,
    ]
    return Edges(
        np.concatenate([part.kind for part in parts]),
        np.concatenate([part.source for part in parts]),
        np.concatenate([part.target for part in parts]),
    )
