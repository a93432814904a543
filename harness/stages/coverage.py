"""Coverage: what the boots under the plugin have covered together, on all platforms."""

from __future__ import annotations

from collections.abc import Mapping

from harness.coverage import Coverage, merge
from harness.result import Stage, StageResult, Status
from harness.stages.guard import guard, skipped

ALL = "all"
HOTTEST = 20


def stage(parts: Mapping[str, Coverage | None]) -> StageResult:
    """Merge what each variant has covered, None where there was no verdict.

    The notes are the hottest of the sites that none has verified.
    """
    there = {name: part for name, part in parts.items() if part is not None}
    if not there:
        return skipped(
            Stage.COVERAGE, ALL, "no boot under the plugin came to a verdict"
        )

    def work() -> StageResult:
        merged = merge(there.values())
        absent = ", ".join(name for name in parts if name not in there)
        notes = [f"without {absent}"] if absent else []
        notes += [f"{cold.heat:,} {cold.place}" for cold in merged.hottest(HOTTEST)]
        return StageResult(
            Stage.COVERAGE,
            ALL,
            Status.PASS,
            counts={"variants": len(there), **merged.counts},
            notes=tuple(notes),
        )

    return guard(Stage.COVERAGE, ALL, work)
