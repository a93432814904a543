"""Clean: the clean program, and what the proofs ask of it."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from harness.corpus.equivalent.dead import dead
from harness.text.insn import U64, InsnKind
from harness.verify.columns import Columns


class Clean:
    """The clean columns, and what the rules ask of them, found once."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns

    @functools.cached_property
    def asked(self) -> U64:
        """u64[n], see :func:`asked`."""
        return asked(self.columns)

    @functools.cached_property
    def dead(self) -> npt.NDArray[np.bool_]:
        """bool[insns], see :func:`dead`."""
        return dead(self.columns)


def asked(columns: Columns) -> U64:
    """Return the addresses that the unwinder can look up: u64[n].

    Each instruction's start in every text (a signal frame), and of each call its
    last byte (a return address minus one).
    """
    parts = [columns.insns] + ([columns.streams.insns] if columns.streams else [])
    starts = [part.address for part in parts]
    calls = [
        part.end[np.isin(part.kind, (InsnKind.CALL, InsnKind.CALL_INDIRECT))]
        - np.uint64(1)
        for part in parts
    ]
    return np.unique(np.concatenate([*starts, *calls]))
