"""Kernel: what a kernel tells of its modules, small enough to be handed around.

A module alone shows neither what the operations are that it calls, nor on which
features the macros of its alternatives are used elsewhere.

This module imports nothing that judges: what it holds is part of an archive's key.
"""

from __future__ import annotations

from msgspec import Struct

# The fields of an operation of pv_ops (harness/text/patch/paravirt.py), by place.
Operation = tuple[int, int, str, int, bytes, bool]
# Pattern of texts, the condition they are used on (flags << 16 | cpuid), how often.
Condition = tuple[int, int, int]


class Kernel(Struct, frozen=True):
    """What verdicts on modules take from their kernel; ``repr`` tells all of it.

    Attributes:
        operations: those of its pv_ops.
        conditions: what its sites with the same texts are for.
    """

    operations: tuple[Operation, ...] = ()
    conditions: tuple[Condition, ...] = ()
