"""Rows: the instructions of a piece of code, as an engine found them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.text.code import code_of
from harness.text.insn import U8, U64, Insns

_KINDS = (np.uint64, np.uint8, np.uint8, np.uint64)


@dataclass(frozen=True, slots=True)
class Rows:
    """Instructions in address order: the columns of Insns, all but their bytes."""

    address: U64
    size: U8
    kind: U8
    target: U64

    def __len__(self) -> int:
        return len(self.address)

    def first(self, count: int) -> Rows:
        """Return the first ``count`` of them."""
        return Rows(
            self.address[:count],
            self.size[:count],
            self.kind[:count],
            self.target[:count],
        )


def chain(parts: Sequence[Rows]) -> Rows:
    """Return the rows of ``parts`` as one."""
    if len(parts) == 1:
        return parts[0]
    u64, u8 = np.zeros(0, np.uint64), np.zeros(0, np.uint8)
    none = Rows(u64, u8, u8, u64)
    parts = [none, *parts]
    return Rows(
        np.concatenate([part.address for part in parts]),
        np.concatenate([part.size for part in parts]),
        np.concatenate([part.kind for part in parts]),
        np.concatenate([part.target for part in parts]),
    )


def join(parts: Iterable[Rows], codes: Sequence[tuple[U8, int]]) -> Insns:
    """Return the rows of ``parts``, in address order, as Insns.

    ``codes`` has each part's bytes and the address that they are mapped at.
    """
    columns: list[list[npt.NDArray[Any]]] = [[np.zeros(0, kind)] for kind in _KINDS]
    for part in parts:
        columns[0].append(part.address)
        columns[1].append(part.size)
        columns[2].append(part.kind)
        columns[3].append(part.target)
    # the parts of a column are freed before the next one is joined
    address, size, kind, target = (np.concatenate(columns.pop(0)) for _ in range(4))
    return Insns(address, size, kind, target, code_of(address, codes))
