"""Extent: where functions begin and end, as far as symbols tell."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from harness.elf.program import Program
from harness.elf.symbol import STT_NOTYPE
from harness.text.insn import I64, U64


def functions(program: Program) -> tuple[U64, U64]:
    """Return where each function that tells its size begins and ends, by address.

    What hardware enters is no function to the assembler (SYM_CODE_START: STT_NOTYPE);
    to kallsyms nor are labels within one.
    """
    symbols = program.symbols
    if program.guessed:
        return typed(program)
    return _sized(program, symbols.functions | (symbols.kind == STT_NOTYPE))


def typed(program: Program) -> tuple[U64, U64]:
    """Return the same of what is a function to the assembler (STT_FUNC)."""
    return _sized(program, program.symbols.functions)


def named(program: Program) -> tuple[U64, U64]:
    """Return the same of everything in code that has a name."""
    return _sized(program, program.symbols.section >= 0)


def holding(start: U64, end: U64, addresses: U64) -> I64:
    """Return which of the ranges, by address, each of ``addresses`` lies in, else -1."""
    if not len(start):
        return np.full(len(addresses), -1)
    at = np.searchsorted(start, addresses, side="right") - 1
    return np.where((at >= 0) & (addresses < end[at]), at, -1)


def _sized(program: Program, wanted: npt.NDArray[np.bool_]) -> tuple[U64, U64]:
    symbols = program.symbols
    rows = np.flatnonzero(wanted & (symbols.size > 0))
    rows = rows[program.in_code(symbols.address[rows])]
    start, first = np.unique(symbols.address[rows], return_index=True)
    return start, start + symbols.size[rows[first]]
