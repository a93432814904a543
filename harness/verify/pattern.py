"""Pattern: the texts of an alternative without operands, as one number per entry.

Sites that one macro made have equal patterns, whatever registers, addresses and
padding they have; the function that a text calls is part of it, unless the original
calls through memory.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from harness.elf.alternative import Alternatives
from harness.elf.program import Program
from harness.text.insn import I64, U64, InsnKind
from harness.text.operation import of_codes, operation
from harness.text.patch import ORIGINAL, Streams

# What the kernel alternates for many reasons: nothing tells which is meant.
_ANYTHING = of_codes("e900000000", "eb00", "0faee8", "0faef0", "0f30", "c3", "cc")
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_POSITIONS = np.cumprod(np.full(256, 0xD6E8FEB86659FD93, np.uint64))  # all odd


class Patterns(Struct, frozen=True):
    """The patterns of all entries.

    Attributes:
        pattern: u64[entries], of the original, the replacement, its place among the
            site's and how many these are.
        original: u64[sites], of the original alone.
        replacement: u64[entries], of the replacement alone.
        telling: bool[entries], the texts are no mere fence, jump or MSR write.
        operation: i64[k], of every instruction of every text that is no padding, the
            texts of a site one after the other.
        value: u64[k], the same with the called function: what patterns are made of.
        entry: i64[k], the entry whose replacement it is in, or ORIGINAL.
        site: i64[k], the site.
    """

    pattern: U64
    original: U64
    replacement: U64
    telling: npt.NDArray[np.bool_]
    operation: I64
    value: U64
    entry: I64
    site: I64


def patterns_of(
    program: Program, alternatives: Alternatives, streams: Streams
) -> Patterns:
    """Return the patterns of the texts of ``program``."""
    insns = streams.insns
    stream = np.repeat(np.arange(len(streams)), np.diff(streams.first))
    code_end = insns.ends(streams.first[1:] - 1) - streams.fill.astype(np.uint64)
    code = insns.code[:]
    padding = (insns.size == 1) & (code[:, 0] == 0x90)
    rows = np.flatnonzero((insns.address < code_end[stream]) & ~padding)
    stream = stream[rows]
    operations = operation(code[rows])
    first = insns.kind[np.minimum(streams.first[:-1], len(insns) - 1)]
    through = (first == InsnKind.CALL_INDIRECT)[streams.entry == ORIGINAL]
    calls = (insns.kind[rows] == InsnKind.CALL) & ~through[streams.site[stream]]
    callee = np.zeros(len(rows), np.uint64)
    callee[calls] = _callees(program, insns.target[rows[calls]])
    value = operations.view(np.uint64) ^ callee
    hashes = mixed(value, stream, len(streams))
    plain = ~np.isin(operations, _ANYTHING)
    telling = np.bincount(stream[plain], minlength=len(streams)) > 0
    where = np.zeros(len(alternatives), np.int64)
    replaced = np.flatnonzero(streams.entry != ORIGINAL)
    where[streams.entry[replaced]] = replaced
    original = np.flatnonzero(streams.entry == ORIGINAL)[alternatives.site]
    nth = np.arange(len(alternatives)) - alternatives.site_first[alternatives.site]
    nth += alternatives.site_count[alternatives.site].astype(np.int64) << 16
    pattern = hashes[where] * _SPREAD ^ hashes[original]
    return Patterns(
        pattern=pattern * _SPREAD ^ nth.astype(np.uint64),
        original=hashes[streams.entry == ORIGINAL],
        replacement=hashes[where],
        telling=telling[where] | telling[original],
        operation=operations,
        value=value,
        entry=streams.entry[stream],
        site=streams.site[stream],
    )


def _callees(program: Program, targets: U64) -> U64:
    """Name the called functions by a hash."""
    unique, inverse = np.unique(targets, return_inverse=True)
    named = [_hash(program, target) for target in unique.tolist()]
    return np.array(named, np.uint64)[inverse.reshape(-1)]


def _hash(program: Program, target: int) -> int:
    name = str(program.location(target))
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())


def mixed(values: U64, owner: I64, count: int) -> U64:
    """Hash the values of each of ``count`` owners in their order; ``owner`` ascends.

    Who owns nothing has 0.
    """
    last = np.searchsorted(owner, np.arange(count), side="right") - 1
    found = np.zeros(count, np.uint64)
    some = np.bincount(owner, minlength=count) > 0
    found[some] = prefixes(values, owner, count)[last[some]]
    return found


def prefixes(values: U64, owner: I64, count: int) -> U64:
    """Hash for each value those of its owner up to it (see :func:`mixed`)."""
    first = np.searchsorted(owner, np.arange(count))[owner]
    scattered = (values + np.uint64(1)) * _SPREAD
    scattered ^= scattered >> np.uint64(29)
    scattered *= _POSITIONS[np.arange(len(values)) - first]
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(scattered)])
    return np.asarray(sums[1:] - sums[first])
