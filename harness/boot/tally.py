"""Tally: what a probe has seen so far, counted."""

from __future__ import annotations

from collections import Counter, defaultdict

from msgspec import Struct, field
from msgspec.structs import replace

from harness.boot.point import Guest, Point, in_entry_context
from harness.boot.unwind import Ended
from harness.finding import Finding

MAX_FINDINGS = 20
_FIRST = (
    "points",
    "agree",
    "differ",
    "frames",
    "to_the_end",
    "entry_context",
    "inside_replacement",
    "inside_other_cfa",
    "control_reported",
    "control_clean",
)


class Tally(Struct):
    """What a probe has seen so far.

    Attributes:
        counts: how often, by what.
        findings: one for each cause, which counts the places; by key.
        inside: starts that only patching made -> another CFA than their site's start.
        hit: of those, where the guest was seen.
        entries: entry points where it was seen.
        seen: addresses in traces, and left on stacks -> how often.
    """

    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    findings: dict[str, Finding] = field(default_factory=dict)
    inside: dict[int, bool] = field(default_factory=dict)
    hit: set[int] = field(default_factory=set)
    entries: set[int] = field(default_factory=set)
    seen: Counter[int] = field(default_factory=Counter)

    def found(self, finding: Finding) -> None:
        """Count ``finding``, with those of its cause."""
        known = self.findings.get(finding.key)
        if known is not None:
            occurrences = known.occurrences + 1
            self.findings[finding.key] = replace(known, occurrences=occurrences)
        elif len(self.findings) < MAX_FINDINGS:
            self.findings[finding.key] = finding

    def point(self, guest: Guest, point: Point) -> bool:
        """Count ``point``, unless it is none: module code is on its stack."""
        if not point.comparable and point.agrees:
            self.counts["module_on_stack"] += 1
            return False
        self.counts["points"] += 1
        self.counts["frames"] += len(point.guest)
        self.counts["agree" if point.agrees else "differ"] += 1
        self.counts["entry_context"] += in_entry_context(guest, point)
        to_the_end = point.host.ended in (Ended.USER, Ended.END_OF_STACK)
        self.counts["to_the_end"] += to_the_end
        if (rip := point.registers.rip) in self.inside:
            self.hit.add(rip)
        self.seen.update(point.host.ips)
        return True

    @property
    def have(self) -> dict[str, int]:
        """All counts, those first that readers look for."""
        counts = self.counts | {
            "entry_points_hit": len(self.entries),
            "inside_replacement": len(self.hit),
            "inside_other_cfa": sum(self.inside[place] for place in self.hit),
        }
        return {name: counts.get(name, 0) for name in _FIRST} | counts
