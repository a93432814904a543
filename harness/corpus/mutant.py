"""Mutant: a program that is wrong on purpose, by one small change of its bytes.

A class of mutants knows where its change can be made and makes it. It is a pure
function of the clean columns and of a random generator, so that a seed names a
mutant for ever.
"""

from __future__ import annotations

import enum
import functools
import zlib
from collections.abc import Callable

import numpy as np
from msgspec import Struct

from harness.corpus.rewrite import Edit, apply
from harness.text.insn import I64
from harness.verify.columns import Columns

TRIES = 64  # candidates that are looked at before a draw gives up


class Kind(enum.StrEnum):
    """What a class of mutants spoils, which decides what recall is asked of us."""

    STATE = "state"  # the stack state that the table declares, or that is true
    LENGTH = "length"  # what a site covers: ORC sees it where the stack moves
    CONDITION = "condition"  # when a replacement is used: no stack state changes
    SIDE = "side"  # a table beside the code


# The least recall of the mutants that are not equivalent; None: reported only.
WANTED: dict[Kind, float | None] = {
    Kind.STATE: 0.995,
    Kind.LENGTH: 0.90,
    Kind.CONDITION: 0.65,
    Kind.SIDE: None,
}


class Change(Struct, frozen=True, dict=True):
    """One mutation.

    Attributes:
        clean: what is spoilt.
        edits: how.
        address: where the change shows.
        size: bytes of code from there that it concerns.
        what: what was done, for people: ``sp+16 call -> sp+24 call``.
    """

    clean: Columns
    edits: tuple[Edit, ...]
    address: int
    size: int
    what: str

    @functools.cached_property
    def columns(self) -> Columns:
        """The mutant.

        Raises:
            FormatError: nobody can read it any more.
        """
        return apply(self.clean, self.edits)


class MutantClass(Struct, frozen=True):
    """One way to spoil a program.

    Attributes:
        name: ``orc/sp-offset``.
        kind: what it spoils.
        candidates: rows (of what it changes) at which it can be applied.
        mutate: spoils one of them; None where this one cannot be.
    """

    name: str
    kind: Kind
    candidates: Callable[[Columns], I64]
    mutate: Callable[[Columns, int, np.random.Generator], Change | None]


def generator(name: str, seed: int) -> np.random.Generator:
    """Return the generator of the mutant ``seed`` of the class ``name``."""
    return np.random.default_rng([zlib.crc32(name.encode()), seed])


def draw(
    one: MutantClass, columns: Columns, candidates: I64, seed: int
) -> Change | None:
    """Return mutant ``seed`` of the class ``one``; None if nothing can be spoilt."""
    random = generator(one.name, seed)
    for _ in range(TRIES if len(candidates) else 0):
        row = int(candidates[random.integers(len(candidates))])
        if (change := one.mutate(columns, row, random)) is not None:
            return change
    return None
