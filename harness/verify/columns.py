"""Columns: one program as the checks see it, read and decoded once.

No check opens a file: this is all that there is.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
from msgspec import Struct, field

from harness.elf.alternative import Alternatives, parse_alternatives
from harness.elf.feature import Features
from harness.elf.orc import OrcTable, parse_orc
from harness.elf.program import Program
from harness.finding import Finding
from harness.text.decode import Decoding, decoding
from harness.text.insn import I64, U64, InsnKind, Insns
from harness.text.patch import Streams, build_streams
from harness.text.starts import Starts, starts_of
from harness.verify.kernel import Kernel
from harness.verify.lookup import Lookup, lookup_of
from harness.verify.pattern import Patterns, patterns_of
from harness.verify.transfer import UNDEFINED
from harness.verify.verdict import Exports, Reliance

if TYPE_CHECKING:
    from harness.elf.debug_frame import FrameRows

T = TypeVar("T", bound=np.generic)


class Columns(Struct, frozen=True, dict=True):
    """A program that carries ORC.

    ``replace`` makes a mutant: what is derived is derived anew.
    ``offers``: modules are checked, too, and want to know about its exports.
    ``frames``: what its compiler told, where somebody wants that compared.
    ``kernel``: what the kernel of a module tells, where that is at hand.
    """

    program: Program
    table: OrcTable
    insns: Insns
    alternatives: Alternatives | None
    streams: Streams | None
    features: Features
    offers: bool = False
    frames: FrameRows | None = None
    kernel: Kernel | None = None

    @functools.cached_property
    def lookup(self) -> Lookup:
        """The table, sorted as the kernel sorts it."""
        return lookup_of(self.table)

    @functools.cached_property
    def state(self) -> I64:
        """i64[insns], the table's state at each instruction."""
        return self.spread(self.lookup.state, np.int64(UNDEFINED))

    @functools.cached_property
    def begins(self) -> I64:
        """i64[entries], the first instruction that each entry holds for."""
        return np.searchsorted(self.insns.address, self.lookup.ip).astype(np.int64)

    def spread(self, values: npt.NDArray[T], before: T) -> npt.NDArray[T]:
        """Give each instruction the value of its entry; ``before`` the first one."""
        holds = np.diff(self.begins, prepend=0, append=len(self.insns))
        return np.repeat(np.append(before, values), holds)

    @functools.cached_property
    def starts(self) -> Starts | None:
        """The bitmap of the instructions, if they lie near enough for one."""
        return starts_of(self.insns)

    def index(self, addresses: U64) -> I64:
        """Return where an instruction starts at each of ``addresses``, else -1."""
        if self.starts is None:
            return self.insns.index(addresses)
        return self.starts.index(addresses)

    @functools.cached_property
    def branches(self) -> I64:
        """Rows of ``insns`` that are direct branches."""
        direct = self.insns.of_kind(InsnKind.CALL, InsnKind.JMP, InsnKind.JCC)
        rows = np.flatnonzero(direct)
        return np.asarray(rows[self.insns.target[rows] != 0])

    @functools.cached_property
    def branch_state(self) -> I64:
        """i64[branches], the table's state at each of ``branches``."""
        return np.asarray(self.state[self.branches])

    @functools.cached_property
    def patterns(self) -> Patterns | None:
        """The texts of alternatives without operands; None if there are none."""
        if self.alternatives is None or self.streams is None:
            return None
        if not len(self.streams.insns):
            return None
        return patterns_of(self.program, self.alternatives, self.streams)


class Part(Struct, frozen=True):
    """What one check of a program came to.

    Attributes:
        findings: in any order, not numbered.
        counts: what was looked at, by name, in printing order.
        notes: what a reader should know and need not act on.
        reliances: what it holds only with.
        exports: what the program offers to modules.
    """

    findings: tuple[Finding, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    reliances: tuple[Reliance, ...] = ()
    exports: Exports | None = None


def read_columns(
    program: Program,
    features: Features,
    threads: int | None = None,
    ahead: Decoding | None = None,
) -> Columns | None:
    """Read and decode ``program``; None if it carries no ORC.

    Whoever has begun to decode it ``ahead`` of this gives what that comes to.

    Raises:
        FormatError: a section that must be read has no layout that we know.
    """
    table = parse_orc(program)
    if table is None:
        return None
    with ExitStack() as stack:
        insns = ahead or stack.enter_context(decoding(program, threads))
        alternatives = parse_alternatives(program)
        streams = None
        if alternatives is not None:
            streams = build_streams(program, alternatives)
        return Columns(program, table, insns.result(), alternatives, streams, features)
