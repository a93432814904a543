"""Capability: where a kernel keeps its CPU's features.

The image has no debug information, and the structure's layout changes; but the kernel
tests single bits itself: _static_cpu_has() is an alternative site (bit as its feature)
whose original jumps to .altinstr_aux, to ``testb $mask, byte(%rip)``. Each such site
says where the array begins, and all must agree.

Source: arch/x86/include/asm/cpufeature.h of 4.15, 5.10, 6.1, 6.12 and 7.2.
"""

from __future__ import annotations

import numpy as np

from harness.elf.alternative import Alternatives
from harness.elf.program import Program
from harness.errors import FormatError
from harness.text.insn import U64
from harness.text.patch.choice import ALWAYS
from harness.text.patch.edits import target_of
from harness.text.patch.said import code_at

_TESTB = (0xF6, 0x05)  # testb $imm8, disp32(%rip)
_TESTB_ABSOLUTE = (0xF6, 0x04, 0x25)  # up to 6.2
_SIZE = 8


def find_capability(program: Program, alternatives: Alternatives) -> int:
    """Return the address of boot_cpu_data.x86_capability.

    Raises:
        FormatError: the kernel tests no bit, or its tests do not agree.
    """
    bases = _bases(program, alternatives)
    found, count = np.unique(bases, return_counts=True)
    if not len(found):
        raise FormatError(
            f"{program.name} tests none of its CPU's features by static_cpu_has(): "
            "where it keeps them is not known"
        )
    if len(found) > 1:
        seen = ", ".join(
            f"{at:#x} ({n})"
            for at, n in zip(found.tolist(), count.tolist(), strict=True)
        )
        raise FormatError(
            f"{program.name}: its tests of features do not agree on where those are: "
            f"{seen}, expected one address"
        )
    return int(found[0])


def _bases(program: Program, alternatives: Alternatives) -> U64:
    """Return u64[k], where the array begins by each test of a bit."""
    aux = program.section(".altinstr_aux")
    if aux is None:
        return np.zeros(0, np.uint64)
    rows = np.flatnonzero(alternatives.cpuid != ALWAYS)
    site = alternatives.address[rows]
    code = code_at(program, site, _SIZE)
    target = target_of(site, code, 1)
    low, high = np.uint64(aux.address), np.uint64(aux.end)
    jumps = (code[:, 0] == 0xE9) & (target >= low) & (target < high)
    rows, target = rows[jumps], target[jumps]
    bit = alternatives.cpuid[rows].astype(np.uint64)
    test = code_at(program, target, _SIZE)
    relative = (test[:, :2] == _TESTB).all(axis=1)
    absolute = (test[:, :3] == _TESTB_ABSOLUTE).all(axis=1)
    mask = np.where(absolute, test[:, 7], test[:, 6])
    right = (relative | absolute) & (mask == 1 << (bit & np.uint64(7)).astype(np.int64))
    # the operand counts from behind the immediate, one byte after itself
    byte = target_of(target, test, 2) + np.uint64(1)
    low32 = np.ascontiguousarray(test[:, 3:7]).view("<i4").reshape(-1)
    byte = np.where(absolute, low32.astype(np.int64).view(np.uint64), byte)
    return np.asarray((byte - (bit >> np.uint64(3)))[right])
