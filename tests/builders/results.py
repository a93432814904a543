"""Results: runs, stages and findings that never happened."""

from __future__ import annotations

import itertools

from harness.finding import Finding, Location
from harness.result import SCHEMA, RunResult, Stage, StageResult, Status

_numbers = itertools.count(1)


def finding(
    symbol: str = "f", rule: str = "text/depth", *, cause: str = "", **fields: object
) -> Finding:
    """Return a finding in ``symbol``."""
    location = Location("vmlinux", symbol, 4, 0xFFFFFFFF81000004)
    return Finding(rule, location, "wrong", cause=cause, **fields)  # type: ignore[arg-type]


def stage(
    *findings: Finding,
    known: tuple[Finding, ...] = (),
    variant: str = "xen",
    of: Stage = Stage.VALIDATE,
    status: Status | None = None,
    **fields: object,
) -> StageResult:
    """Return a stage with ``findings``: FAIL with them, PASS without; of vmlinux."""
    verdict = status or (Status.FAIL if findings else Status.PASS)
    if of is Stage.VALIDATE:
        fields = {"objects": ("vmlinux",)} | fields
    return StageResult(
        of,
        variant,
        verdict,
        findings=findings,
        known=known,
        **fields,  # type: ignore[arg-type]
    )


def run(*stages: StageResult, run_id: str = "", **fields: object) -> RunResult:
    """Return a run of ``stages``, later than the one before."""
    number = next(_numbers)
    given: dict[str, object] = {
        "started": f"2026-01-01T{number // 60:02}:{number % 60:02}:00+00:00",
        "seconds": 1.5,
        "profile": "small",
        "tree": "linux-source-6.12 6.12.90-1",
        "tools": {"gcc": "gcc 12.2", "qemu": "10.0"},
    } | fields
    return RunResult(
        SCHEMA,
        run_id=run_id or f"run-{number}",
        stages=stages,
        **given,  # type: ignore[arg-type]
    )
