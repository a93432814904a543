"""Witness: what a linked kernel tells of its modules, read from its own sites."""

from __future__ import annotations

from harness.elf.alternative import parse_alternatives
from harness.elf.program import Program
from harness.text.patch import build_streams
from harness.text.patch.paravirt import read_operations
from harness.verify.kernel import Kernel
from harness.verify.lints.condition import known_conditions
from harness.verify.pattern import patterns_of


def kernel_of(program: Program) -> Kernel:
    """Read the linked kernel ``program``; no code outside of its sites is decoded.

    Raises:
        FormatError: a section that must be read has no layout that we know.
    """
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
