"""Rows: the instructions of a piece of code, as an engine found them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from harness.text.code import code_of
from harness.text.insn import U8, U64, Acts, Insns

_KINDS = (np.uint64, np.uint8, np.uint8, np.uint64)


class Rows(Struct, frozen=True):
    """Instructions in address order: the columns of Insns, all but their bytes."""

    address: U64
    size: U8
    kind: U8
    target: U64
    acts: Acts | None = None

    def __len__(self) -> int:
        return len(self.address)


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
    parts = list(parts)
    acts = _acts(parts)
    columns: list[list[npt.NDArray[Any]]] = [[np.zeros(0, kind)] for kind in _KINDS]
    while parts:
        part = parts.pop(0)
        columns[0].append(part.address)
        columns[1].append(part.size)
        columns[2].append(part.kind)
        columns[3].append(part.target)
    # the parts of a column are freed before the next one is joined
    address, size, kind, target = (np.concatenate(columns.pop(0)) for _ in range(4))
    return Insns(address, size, kind, target, code_of(address, codes), acts)


def _acts(parts: Sequence[Rows]) -> Acts | None:
    """Join the effects of ``parts``, if all have them."""
    told = [part.acts for part in parts]
    known = [acts for acts in told if acts is not None]
    if not told or len(known) < len(told):
        return None
    first = itertools.accumulate(map(len, parts[:-1]), initial=0)
    row = [acts.row + at for acts, at in zip(known, first, strict=True)]
    return Acts(
        np.concatenate(row),
        np.concatenate([acts.form for acts in known]),
        np.concatenate([acts.delta for acts in known]),
    )
