"""Variant: which platforms can run a stream of a site, and what people call it."""

from __future__ import annotations

from msgspec import Struct

from harness.elf.alternative import Alternatives, AltFlag
from harness.elf.feature import Features
from harness.text.patch import ORIGINAL, Era
from harness.text.patch.choice import Reach, asked, reach
from harness.variant import Platform

_EVERYWHERE = tuple(Platform)


class Variants(Struct, frozen=True):
    """The streams of a program's sites as people name them."""

    alternatives: Alternatives
    features: Features
    era: Era = Era.E5

    def label(self, site: int, entry: int) -> str:
        """Name a stream: ``original``, ``replacement 1 of 2 (not XENPV)``."""
        if entry == ORIGINAL:
            return "original"
        first = int(self.alternatives.site_first[site])
        count = int(self.alternatives.site_count[site])
        return f"replacement {entry - first + 1} of {count} ({self.condition(entry)})"

    def condition(self, entry: int) -> str:
        """Name what an entry asks for: ``XENPV``, ``not XENPV``."""
        name = self.features.name(int(self.alternatives.cpuid[entry]))
        negated = int(self.alternatives.flags[entry]) & AltFlag.NOT
        return f"not {name}" if negated else name

    def platforms(self, site: int, entry: int) -> tuple[str, ...]:
        """Return where the stream can be what runs once alternatives are applied.

        What is replaced everywhere counts for where it runs before that: an original
        during early boot, a replacement between two writes.
        """
        number, reached = self._reach(site, entry)
        stays = tuple(p.value for p in _EVERYWHERE if number in reached[p].stays)
        if stays or entry == ORIGINAL:
            return stays or tuple(p.value for p in _EVERYWHERE)
        return tuple(p.value for p in _EVERYWHERE if number in reached[p].passes)

    def possible(self, site: int, entry: int) -> bool:
        """Whether any kernel ever runs the stream.

        FILL_RETURN_BUFFER of 5.10 and 6.1 has a replacement for "not ALWAYS". A
        kernel that writes a site once (7.0 and later) does not run what a later
        entry always replaces.
        """
        if entry == ORIGINAL:
            return True
        number, reached = self._reach(site, entry)
        stays = any(number in each.stays for each in reached.values())
        passes = any(number in each.passes for each in reached.values())
        return stays or (passes and self.era.sequential)

    def covers(self, site: int) -> dict[tuple[int, int], tuple[str, ...]]:
        """Return which entries' texts are written over which, and on which platforms.

        Keys are (earlier, later), rows of the alternatives. Only kernels that patch in
        sequence do so: since 7.0 a site is written once.
        """
        if not self.era.sequential:
            return {}
        first = int(self.alternatives.site_first[site])
        _, reached = self._reach(site, ORIGINAL)
        pairs = sorted({pair for each in reached.values() for pair in each.covers})
        return {
            (first + earlier, first + later): tuple(
                p.value for p in _EVERYWHERE if (earlier, later) in reached[p].covers
            )
            for earlier, later in pairs
        }

    def _reach(self, site: int, entry: int) -> tuple[int, dict[Platform, Reach]]:
        """Return the entry's number within its site, and what each platform runs."""
        first = int(self.alternatives.site_first[site])
        number = entry if entry == ORIGINAL else entry - first
        conditions = asked(self.alternatives, site)
        return number, {p: reach(conditions, p) for p in _EVERYWHERE}
