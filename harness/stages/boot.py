"""Boot: a build on its platform, to the evidence that its userspace gives."""

from __future__ import annotations

from dataclasses import replace

from harness.boot import boot
from harness.boot.machine import MissingMachine
from harness.boot.outcome import BootResult
from harness.boot.outcome import Status as BootStatus
from harness.progress import Progress
from harness.result import Stage, StageResult
from harness.stages.guard import Missing, guard, judged
from harness.stages.subject import Subject


def stage(
    subject: Subject, progress: Progress
) -> tuple[StageResult, BootResult | None]:
    """Boot ``subject``; return the stage, and what the guest left if it came up."""
    ended: list[BootResult] = []

    def work() -> StageResult:
        progress(f"booting {subject.name} on {subject.platform}")
        try:
            result = boot.boot(
                subject.toolbox(), subject.kernel, subject.platform, subject.config
            )
        except MissingMachine as exc:
            raise Missing(exc.message, exc.hint or "") from exc
        findings = boot.findings(result)
        if result.status is BootStatus.BOOTED:
            ended.append(result)
        notes = [
            result.message,
            *(f"{key}: {value}" for key, value in result.facts.items()),
            *(f"{key}: {value}" for key, value in result.versions.items()),
        ]
        if findings:
            notes += ["console:", *result.console_tail]
        again = [replace(finding, reproduce=subject.command) for finding in findings]
        return judged(Stage.BOOT, subject.name, again, result.counts, notes)

    return guard(Stage.BOOT, subject.name, work), ended[0] if ended else None
