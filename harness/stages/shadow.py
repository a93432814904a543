"""Shadow: what the kernel executes against its table, by a shadow call stack."""

from __future__ import annotations

from dataclasses import replace

from harness.boot.machine import MissingMachine
from harness.boot.outcome import BootResult
from harness.boot.shadow.shadow import ShadowResult, shadow
from harness.elf.program import load
from harness.progress import Progress
from harness.result import Stage, StageResult
from harness.stages.guard import Missing, guard, judged, skipped, unless
from harness.stages.subject import Subject


def stage(
    subject: Subject,
    booted: BootResult | None,
    progress: Progress,
    *,
    saved_bp: bool = False,
) -> StageResult:
    """Boot the kernel under the plugin that checks every instruction it executes.

    It sees what the comparison of two unwinders cannot: an entry that is wrong in
    the running kernel as in the image; with ``saved_bp`` a lost %rbp, too. A kernel that
    did not boot is not checked.
    """
    if booted is None:
        return skipped(Stage.SHADOW, subject.name, "it did not boot")

    def work() -> StageResult:
        progress(f"checking what {subject.name} executes on {subject.platform}")
        try:
            result = shadow(
                subject.toolbox(),
                subject.kernel,
                subject.platform,
                subject.config,
                load(subject.kernel.vmlinux),
                saved_bp=saved_bp,
            )
        except MissingMachine as exc:
            raise Missing(exc.message, exc.hint or "") from exc
        return _judged(subject, result, booted.seconds)

    return guard(Stage.SHADOW, subject.name, work)


def _judged(subject: Subject, result: ShadowResult, plain_s: float) -> StageResult:
    again = [
        replace(finding, reproduce=f"{subject.command} --shadow")
        for finding in result.findings
    ]
    notes = [f"{result.seconds:.1f} s, without the plugin {plain_s:.1f} s"]
    if undecided := result.counts.get("undecided"):
        notes.append(f"claims that take memory no plugin can read: {undecided}")
    if unchecked := result.counts.get("without_a_table"):
        notes.append(f"executed in modules, followed and not checked: {unchecked}")
    judgement = judged(Stage.SHADOW, subject.name, again, result.counts, notes)
    return unless(judgement, result.reason)
