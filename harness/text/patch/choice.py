"""Choice: which text each alternative site gets on a machine.

An entry matches if the CPU has its feature, or has it not where the flag says so; of
the entries that match the last one's text stays. Whether the kernel writes each of
them in turn or only the last, what stays is the same: entries of one site have one
length, and since 6.11 those that differ are made so.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from msgspec import Struct, field

from harness.elf.alternative import MAX_WORDS, Alternatives, AltFlag
from harness.text.insn import I64
from harness.text.patch.streams import ORIGINAL
from harness.variant import Platform

ALWAYS = 3 * 32 + 21
XENPV = 8 * 32 + 16
PVUNLOCK, VCPUPREEMPT = 8 * 32 + 20, 8 * 32 + 21


def decided(platform: Platform) -> dict[int, bool]:
    """Return the feature bits that a platform decides, by number.

    Only numbers that have never changed (asm/cpufeatures.h). A Xen PV guest sets
    XENPV (xen/enlighten_pv.c); the paravirt locks' bits follow from pv_ops, which
    native and vSMP leave alone (kernel/paravirt-spinlocks.c).
    """
    bits = {ALWAYS: True, XENPV: platform is Platform.XEN}
    if platform in (Platform.NATIVE, Platform.VSMP):
        bits |= {PVUNLOCK: False, VCPUPREEMPT: False}
    return bits


class Machine(Struct, frozen=True):
    """What decides between texts: a platform and a CPU.

    Attributes:
        platform: what it runs on.
        others: whether the CPU has the features that nobody names.
        features: number -> whether it has it; goes before the platform's own.
    """

    platform: Platform
    others: bool = False
    features: Mapping[int, bool] = field(default_factory=dict)

    def present(self) -> npt.NDArray[np.bool_]:
        """Return for each feature and bug number whether the machine has it."""
        bits = np.full(32 * MAX_WORDS, self.others)
        for number, value in (decided(self.platform) | dict(self.features)).items():
            bits[number] = value
        return bits


def chosen(alternatives: Alternatives, machine: Machine) -> I64:
    """Return i64[m], each site's entry whose text stays, or ORIGINAL."""
    negated = (alternatives.flags & AltFlag.NOT) != 0
    # a number that no kernel has matches nothing but its negation
    known = np.minimum(alternatives.cpuid, 32 * MAX_WORDS - 1)
    matches = machine.present()[known] != negated
    last = np.full(len(alternatives.site_address), ORIGINAL, np.int64)
    rows = np.flatnonzero(matches)
    last[alternatives.site[rows]] = rows  # ascending: a later one overwrites
    return last


class Reach(Struct, frozen=True):
    """Which texts of a site can run on a platform: ORIGINAL, and entries from 0 on.

    Attributes:
        stays: they can be what is left after patching.
        passes: an entry matches, yet a later one always does, too: between two writes
            of a kernel that patches in sequence.
        covers: pairs of entries; such a kernel writes the second one's text over the
            first one's, with none between them.
    """

    stays: frozenset[int]
    passes: frozenset[int]
    covers: frozenset[tuple[int, int]]


Asked = tuple[tuple[int, bool], ...]


def asked(alternatives: Alternatives, site: int) -> Asked:
    """Return what each entry of a site asks for: (number, whether it must be absent)."""
    first = int(alternatives.site_first[site])
    last = first + int(alternatives.site_count[site])
    negated = (alternatives.flags[first:last] & AltFlag.NOT) != 0
    return tuple(
        zip(alternatives.cpuid[first:last].tolist(), negated.tolist(), strict=True)
    )


@functools.cache
def reach(asked: Asked, platform: Platform) -> Reach:
    """Try every assignment of the features that a site's entries ask for."""
    fixed = decided(platform)
    free = sorted({number for number, _ in asked} - fixed.keys())
    stays, matching, covers = set(), set(), set()
    for values in itertools.product((False, True), repeat=len(free)):
        bits = fixed | dict(zip(free, values, strict=True))
        matches = [n for n, (bit, negated) in enumerate(asked) if bits[bit] != negated]
        matching |= set(matches)
        covers |= set(itertools.pairwise(matches))
        stays.add(matches[-1] if matches else ORIGINAL)
    return Reach(frozenset(stays), frozenset(matching - stays), frozenset(covers))
