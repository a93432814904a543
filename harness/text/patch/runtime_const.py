"""Runtime_const: operands that are variables' values since the kernel knows them.

A section ``runtime_ptr_NAME`` lists the 8-byte operands that become the value of
variable NAME, ``runtime_shift_NAME`` the shift counts of one byte. Source:
runtime_const_fixup() of arch/x86/include/asm/runtime-const.h, 6.11 and later.

A compiler drops a static variable that nothing but its operands reads (those of 7.x's
caches). Then the value is what most of its operands have: one that differs is seen, a
single one is not predicted.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from harness.elf.program import Program, Section
from harness.text.insn import U64
from harness.text.patch.edits import Edits, Step, edits_of
from harness.text.patch.said import Said, bytes_at

_SIZES = {"runtime_ptr_": 8, "runtime_shift_": 1}


def runtime_consts(program: Program, said: Said) -> Edits | None:
    """Return the operands that are written."""
    texts: list[tuple[int, bytes, str]] = []
    for section in program.sections:
        for prefix, size in _SIZES.items():
            name = section.name.removeprefix(prefix)
            if name == section.name:
                continue
            places = _places(section)
            code = _value(said, name, places, size)
            if code is not None:
                texts += [(at, code, name) for at in places.tolist()]
    return edits_of(Step.RUNTIME_CONST, texts) if texts else None


def _value(said: Said, name: str, places: U64, size: int) -> bytes | None:
    """Return the value of variable ``name``; None if nothing tells it."""
    value = said.variable(name, size)
    if value is not None:
        return value.to_bytes(size, "little")
    operands = Counter(row.tobytes() for row in bytes_at(said.image, places, size))
    return operands.most_common(1)[0][0] if len(places) > 1 else None


def _places(section: Section) -> U64:
    """Return u64[n], the operands that a section lists: s32 from their own field."""
    offset = section.data[: len(section.data) // 4 * 4].view("<i4").astype(np.int64)
    base = np.arange(len(offset), dtype=np.uint64) * np.uint64(4)
    return np.asarray(base + np.uint64(section.address) + offset.view(np.uint64))
