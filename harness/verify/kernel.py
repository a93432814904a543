"""Kernel: what a kernel tells of its modules, small enough to be handed around.

A module alone shows neither what the operations are that it calls, nor on which
features the macros of its alternatives are used elsewhere.

This module imports nothing that judges: what it holds is part of an archive's key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.elf.program import Program

# The fields of an operation of pv_ops (harness/text/patch/paravirt.py), by place.
Operation = tuple[int, int, str, int, bytes, bool]
# Pattern of texts, the condition they are used on (flags << 16 | cpuid), how often.
Condition = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Kernel:
    """What verdicts on modules take from their kernel; ``repr`` tells all of it.

    Attributes:
        operations: those of its pv_ops.
        conditions: what its sites with the same texts are for.
    """

    operations: tuple[Operation, ...] = ()
    conditions: tuple[Condition, ...] = ()


def kernel_of(program: Program) -> Kernel:
    """Read the linked kernel ``program``; no code outside of its sites is decoded.

    Raises:
        FormatError: a section that must be read has no layout that we know.
    """
    from harness.elf.alternative import parse_alternatives
    from harness.text.patch import build_streams
    from harness.text.patch.paravirt import read_operations
    from harness.verify.condition import known_conditions
    from harness.verify.pattern import patterns_of

    # its functions lie at addresses that mean something else in a module
    operations = tuple(
        (one.slot, 0, one.name, int(one.action), one.code, one.vsmp_calls)
        for one in read_operations(program)
    )
    alternatives = parse_alternatives(program)
    if alternatives is None:
        return Kernel(operations)
    streams = build_streams(program, alternatives)
    if not len(streams.insns):
        return Kernel(operations)
    patterns = patterns_of(program, alternatives, streams)
    return Kernel(operations, known_conditions(alternatives, patterns))
