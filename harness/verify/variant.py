"""Variant: which platforms can run a stream of a site, and what people call it."""

from __future__ import annotations

from dataclasses import dataclass

from harness.elf.alternative import Alternatives, AltFlag
from harness.elf.feature import Features
from harness.text.patch import ORIGINAL
from harness.variant import Platform

ALWAYS = 3 * 32 + 21
XENPV = 8 * 32 + 16
PVUNLOCK, VCPUPREEMPT = 8 * 32 + 20, 8 * 32 + 21

_EVERYWHERE = tuple(Platform)


@dataclass(frozen=True, slots=True)
class Variants:
    """The streams of a program's sites as people name them."""

    alternatives: Alternatives
    features: Features

    def label(self, site: int, entry: int) -> str:
        """Name a stream: ``original``, ``replacement 1 of 2 (not XENPV)``."""
        if entry == ORIGINAL:
            return "original"
        first = int(self.alternatives.site_first[site])
        count = int(self.alternatives.site_count[site])
        name = self.features.name(int(self.alternatives.cpuid[entry]))
        condition = f"not {name}" if self._negated(entry) else name
        return f"replacement {entry - first + 1} of {count} ({condition})"

    def platforms(self, site: int, entry: int) -> tuple[str, ...]:
        """Return where the stream can be what runs once alternatives are applied.

        An original that every platform replaces still runs during early boot, so
        then it counts for all of them.
        """
        first = int(self.alternatives.site_first[site])
        last = first + int(self.alternatives.site_count[site])
        later = range(first if entry == ORIGINAL else entry + 1, last)
        chosen = tuple(
            platform.value
            for platform in _EVERYWHERE
            if (entry == ORIGINAL or self._holds(entry, platform) is not False)
            and not any(self._holds(other, platform) is True for other in later)
        )
        return chosen or tuple(platform.value for platform in _EVERYWHERE)

    def possible(self, entry: int) -> bool:
        """Whether any kernel ever runs the stream.

        FILL_RETURN_BUFFER of 5.10 and 6.1 has a replacement for "not ALWAYS".
        """
        return entry == ORIGINAL or any(
            self._holds(entry, platform) is not False for platform in _EVERYWHERE
        )

    def _negated(self, entry: int) -> bool:
        return bool(int(self.alternatives.flags[entry]) & AltFlag.NOT)

    def _holds(self, entry: int, platform: Platform) -> bool | None:
        """Whether the entry's condition holds; None where the CPU decides."""
        present = _present(int(self.alternatives.cpuid[entry]), platform)
        return None if present is None else present != self._negated(entry)


def _present(cpuid: int, platform: Platform) -> bool | None:
    """Whether a platform has a feature (arch/x86/xen, kernel/kvm.c).

    Only numbers that have never changed, see asm/cpufeatures.h.
    """
    if cpuid == ALWAYS:
        return True
    if cpuid == XENPV:
        return platform is Platform.XEN
    no_pv_locks = platform in (Platform.NATIVE, Platform.VSMP)
    if cpuid in (PVUNLOCK, VCPUPREEMPT) and no_pv_locks:
        return False
    return None
