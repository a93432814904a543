"""Decode: machine code into :class:`harness.text.insn.Insns`; the one door to decoders.

Two engines find the same: Zydis, fast and there if it was built
(:mod:`harness.text.engine_zydis`), and capstone, always there
(:mod:`harness.text.engine_capstone`). ``ORC_HARNESS_DECODER`` demands one of them.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from harness import allowance
from harness.aside import Aside, each
from harness.elf.program import Program
from harness.errors import UserError
from harness.text import engine_zydis
from harness.text.insn import U8, U64, Insns
from harness.text.piece import Piece, piece_of
from harness.text.rows import Rows, join

PIECE_BYTES = 512 << 10  # what is looked through at a time
SHARES = 2  # of the code, for each thread
VARIABLE = "ORC_HARNESS_DECODER"


class Decoder(enum.Enum):
    """An engine, by the name that ``ORC_HARNESS_DECODER`` calls it."""

    CAPSTONE = "capstone"
    ZYDIS = "zydis"


Decoding = Aside[Insns]

_Engine = Callable[[Sequence[Piece]], Rows]


def _engine(decoder: Decoder | None) -> _Engine:
    if (decoder or default_decoder()) is Decoder.ZYDIS:
        return engine_zydis.decode
    from harness.text import engine_capstone  # slow to import: not where Zydis decodes

    return engine_capstone.decode


def format_insn(code: bytes, address: int) -> str:
    """Return ``code``'s first instruction as AT&T text, ``(bad)`` if it is none."""
    from harness.text import engine_capstone

    return engine_capstone.format_insn(code, address)


@functools.cache
def default_decoder() -> Decoder:
    """Return the engine that is used: the one demanded, else the fastest there is.

    Raises:
        UserError: the one demanded has no such name, or is not there.
    """
    return choose(os.environ.get(VARIABLE, ""))


def choose(name: str) -> Decoder:
    """Return the engine called ``name``, "" for the fastest that is there."""
    if not name:
        return Decoder.CAPSTONE if engine_zydis.missing() else Decoder.ZYDIS
    names = [decoder.value for decoder in Decoder]
    if name not in names:
        raise UserError(f"{VARIABLE} is {name!r}, one of {', '.join(names)} expected")
    if Decoder(name) is Decoder.ZYDIS and (reason := engine_zydis.missing()):
        raise UserError(
            f"{VARIABLE} demands zydis, but {reason}",
            hint="apt-get install gcc libzydis-dev, then ci/env (or pip install again)",
        )
    return Decoder(name)


def slow_because() -> str:
    """Return why the slower engine is used, "" if the fast one is."""
    if default_decoder() is Decoder.ZYDIS:
        return ""
    if os.environ.get(VARIABLE):
        return f"{VARIABLE} demands it"  # whether the fast one was built or not
    return engine_zydis.missing()


def decode(
    data: U8,
    address: int,
    starts: U64 | None = None,
    decoder: Decoder | None = None,
) -> Insns:
    """Decode ``data``, which is mapped at ``address``, by linear sweep.

    ``starts`` are addresses at which an instruction is known to start; the sweep
    is resynchronised there. Long fill runs (:mod:`harness.text.fill`) are left out.
    What is no instruction has kind BAD, one byte each.
    """
    rows = _engine(decoder)([piece_of(data, address, starts)])
    return join([rows], [(data, address)])


def decode_all(
    data: U8,
    address: int,
    starts: U64 | None = None,
    decoder: Decoder | None = None,
) -> Insns:
    """Decode like :func:`decode`, long fill runs included."""
    rows = _engine(decoder)([piece_of(data, address, starts, whole=True)])
    return join([rows], [(data, address)])


def decode_program(
    program: Program, threads: int | None = None, decoder: Decoder | None = None
) -> Insns:
    """Decode all code of ``program``; instructions start at each function symbol."""
    cuts = []
    rows = np.flatnonzero(program.symbols.functions)
    functions, owner = program.symbols.address[rows], program.symbols.section[rows]
    for section in program.executable:
        bounds = np.array([section.address, section.end], np.uint64)
        here = slice(*np.searchsorted(functions, bounds))
        starts = functions[here][owner[here] == section.index]
        for first, last in itertools.pairwise(
            _cuts(section.address, section.end, starts)
        ):
            at = first - section.address
            data = section.data[at : last - section.address]
            cuts.append((data, first, starts[(starts >= first) & (starts < last)]))
    engine = _engine(decoder)

    def some(share: list[tuple[U8, int, U64]]) -> Rows:
        return engine([piece_of(*cut) for cut in share])

    texts = [(section.data, section.address) for section in program.executable]
    workers = threads or min(2, int(allowance.cores()))
    if workers == 1 or len(cuts) < 2:
        return join([some(cuts)], texts)
    return join(each(some, _shares(cuts, workers * SHARES), workers), texts)


def _shares(
    cuts: list[tuple[U8, int, U64]], count: int
) -> list[list[tuple[U8, int, U64]]]:
    """Divide ``cuts`` in their order into ``count`` shares of about one size."""
    ends = np.cumsum([len(data) for data, _, _ in cuts])
    owner = (ends - 1) * count // max(1, ends[-1])
    return [
        [cuts[at] for at in np.flatnonzero(owner == one).tolist()]
        for one in range(count)
    ]


@contextlib.contextmanager
def decoding(program: Program, threads: int | None = None) -> Iterator[Decoding]:
    """Decode ``program`` meanwhile, mostly without the GIL; ``result()`` waits for it."""
    ahead = Aside(lambda: decode_program(program, threads))
    try:
        yield ahead
    finally:
        ahead.wait()


def _cuts(first: int, last: int, starts: U64) -> list[int]:
    """Cut [first, last) at function starts into pieces of about PIECE_BYTES."""
    wanted = np.arange(first + PIECE_BYTES, last, PIECE_BYTES, dtype=np.uint64)
    at = np.searchsorted(starts, wanted)
    cuts = {int(starts[i]) for i in at.tolist() if i < len(starts)}
    return sorted({first, last} | cuts)
