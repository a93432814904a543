"""Confirm: what the static verdict says and a running kernel shows, told of each other.

They are one cause if the rules name the same (``callee error_entry under ...``), or if
it is one state that the table declares for code of one function.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from harness.finding import Finding
from harness.result import Stage, StageResult

RUNNING = frozenset({Stage.READBACK, Stage.COMPARE, Stage.SHADOW})


def confirm(stages: Sequence[StageResult]) -> list[StageResult]:
    """Return the ``stages`` of one variant; each finding has who else saw its cause."""
    static = [stage for stage in stages if stage.stage is Stage.VALIDATE]
    running = [stage for stage in stages if stage.stage in RUNNING]
    others = {Stage.VALIDATE: running, **dict.fromkeys(RUNNING, static)}
    return [
        replace(
            stage,
            findings=_seen(stage.findings, others.get(stage.stage, ())),
            known=_seen(stage.known, others.get(stage.stage, ())),
        )
        for stage in stages
    ]


def _seen(
    findings: Iterable[Finding], others: Iterable[StageResult]
) -> tuple[Finding, ...]:
    return tuple(
        replace(
            finding,
            seen=tuple(
                _told(stage, other)
                for stage in others
                for other in (*stage.findings, *stage.known)
                if _is_one(finding, other)
            ),
        )
        for finding in findings
    )


def _told(stage: StageResult, finding: Finding) -> str:
    places = f"{finding.occurrences} places" if finding.occurrences > 1 else "one place"
    return f"{stage.stage} of {stage.variant}, {places}: {finding.key}"


def _is_one(one: Finding, other: Finding) -> bool:
    if one.cause and one.cause == other.cause:
        return True
    here, there = one.location, other.location
    return bool(
        one.declared
        and one.declared == other.declared
        and (here.object, here.symbol) == (there.object, there.symbol)
    )
