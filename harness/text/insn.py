"""Insns: decoded instructions as columns, and Insn, one of them.

The kinds are what stack checks need to tell apart, not an instruction set.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from harness.elf.column import pieces
from harness.text import code
from harness.text.code import Code

U64 = npt.NDArray[np.uint64]
U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]


class InsnKind(enum.IntEnum):
    """What an instruction does to control flow and to the stack registers."""

    OTHER = 0
    NOP = 1
    CALL = 2  # direct
    CALL_INDIRECT = 3
    JMP = 4  # direct
    JMP_INDIRECT = 5
    JCC = 6  # every conditional branch, LOOP and XBEGIN among them
    RET = 7
    PUSH = 8
    POP = 9
    PUSHF = 10
    POPF = 11
    LEAVE = 12
    STACK = 13  # anything else that writes %rsp
    FRAME = 14  # anything else that writes %rbp
    TRAP = 15  # int3: control does not continue
    UD = 16  # ud0, ud1, ud2: continues only where a bug table says so
    END = 17  # iret, sysret, sysexit, eretu, erets
    ENDBR = 18
    BAD = 19  # no instruction that the decoder knows

    @property
    def falls_through(self) -> bool:
        """Whether control can reach the following instruction."""
        return self not in _ENDS


_ENDS = frozenset(
    {
        InsnKind.JMP,
        InsnKind.JMP_INDIRECT,
        InsnKind.RET,
        InsnKind.TRAP,
        InsnKind.UD,
        InsnKind.END,
        InsnKind.BAD,
    }
)


_KINDS = tuple(InsnKind)  # by number


class Insn(NamedTuple):
    """One instruction; ``target`` is 0 but for a direct branch, ``code`` is its bytes.

    A tuple, for there are many.
    """

    address: int
    size: int
    kind: InsnKind
    target: int
    code: bytes

    @property
    def end(self) -> int:
        """Address of the byte after it."""
        return self.address + self.size


class Acts(Struct, frozen=True):
    """What an engine told of the instructions that write %rsp or %rbp, of all of them.

    Attributes:
        row: i64[k], ascending.
        form: u8[k], a Form each (:mod:`harness.text.effect`), 255 where it is unusual.
        delta: i64[k] bytes.
    """

    row: I64
    form: U8
    delta: I64


class Insns(Struct, frozen=True):
    """Instructions in address order.

    Attributes:
        address: u64[n], strictly increasing; gaps are fill that was skipped.
        size: u8[n] bytes.
        kind: u8[n], an InsnKind each.
        target: u64[n], where a direct branch goes, else 0.
        code: their bytes.
        acts: their effects on the stack, where the engine told.
    """

    address: U64
    size: U8
    kind: U8
    target: U64
    code: Code
    acts: Acts | None = None

    def __len__(self) -> int:
        return len(self.address)

    @property
    def end(self) -> U64:
        """u64[n], address of the byte after each."""
        return self.address + self.size

    def ends(self, rows: I64) -> U64:
        """Return the address of the byte after each of ``rows``."""
        return np.asarray(self.address[rows] + self.size[rows])

    def of_kind(self, *kinds: InsnKind) -> npt.NDArray[np.bool_]:
        """Tell which are of one of ``kinds``; on all rows ten times as fast as isin."""
        found = np.zeros(len(self), bool)
        numbers = [int(kind) for kind in kinds]
        for some in pieces(len(self)):
            for kind in numbers:
                found[some] |= self.kind[some] == kind
        return found

    def index(self, addresses: U64) -> I64:
        """Return where an instruction starts at each of ``addresses``, else -1."""
        if not len(self):
            return np.full(np.shape(addresses), -1, np.int64)
        wanted = np.asarray(addresses, np.uint64)
        at = np.searchsorted(self.address, wanted)
        at[at == len(self)] = 0
        return np.where(self.address[at] == wanted, at, -1).astype(np.int64)

    def covering(self, addresses: U64) -> I64:
        """Return the instruction that each of ``addresses`` lies in, else -1."""
        if not len(self):
            return np.full(np.shape(addresses), -1, np.int64)
        wanted = np.asarray(addresses, np.uint64)
        at = np.searchsorted(self.address, wanted, side="right").astype(np.int64) - 1
        row = np.maximum(at, 0)
        inside = (at >= 0) & (wanted < self.address[row] + self.size[row])
        return np.where(inside, at, -1).astype(np.int64)

    def at(self, index: int) -> Insn:
        """Return one of them as a value."""
        size = self.size.item(index)
        return Insn(
            self.address.item(index),
            size,
            _KINDS[self.kind.item(index)],
            self.target.item(index),
            self.code.one(index, size),
        )

    def take(self, rows: npt.NDArray[np.int64] | slice) -> Insns:
        """Return the instructions at ``rows``."""
        return Insns(
            self.address[rows],
            self.size[rows],
            self.kind[rows],
            self.target[rows],
            self.code.take(rows),
        )


def join(parts: list[Insns]) -> Insns:
    """Return the instructions of ``parts``, one after the other."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        none = np.zeros(0, np.uint64)
        byte = np.zeros(0, np.uint8)
        return Insns(none, byte, byte, none, code.code_of(none, []))
    return Insns(
        np.concatenate([part.address for part in parts]),
        np.concatenate([part.size for part in parts]),
        np.concatenate([part.kind for part in parts]),
        np.concatenate([part.target for part in parts]),
        code.join([part.code for part in parts]),
    )
