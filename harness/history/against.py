"""Against: a run judged by what an earlier one has found already.

What the earlier run has, new or known, is known. Which earlier run that may be is a
question of trust: a good one exited with 0, was of the same thing, and came to a
verdict wherever this one did. So what was new last night and is still there tonight
stays new, until it is fixed, reviewed, or accepted with the run that has it.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from harness.finding import Finding
from harness.result import RunResult, StageResult, Status


def against(run: RunResult, base: RunResult) -> RunResult:
    """Return ``run`` with what ``base`` has as known.

    What has expired stays new: somebody who looked into it has said that it is known
    until a day, and that day has passed.
    """
    keys = {
        finding.key
        for stage in base.stages
        for finding in (*stage.findings, *stage.known)
    }

    def known(finding: Finding) -> bool:
        return finding.key in keys and not finding.expired

    stages = tuple(_judged(stage, known) for stage in run.stages)
    return replace(run, stages=stages, baseline=base.run_id)


def _judged(stage: StageResult, known: Callable[[Finding], bool]) -> StageResult:
    old = tuple(filter(known, stage.findings))
    new = tuple(finding for finding in stage.findings if not known(finding))
    passes = stage.status is Status.FAIL and old and not new
    return replace(
        stage,
        status=Status.PASS if passes else stage.status,
        findings=new,
        known=(*stage.known, *old),
    )


def series(tree: str) -> str:
    """Return what runs of one ``tree`` share.

    That is its path, or its name: behind that is its version, which may differ
    (``linux-source-6.12 6.12.90-1``).
    """
    return tree if tree.startswith("/") else tree.partition(" ")[0]
