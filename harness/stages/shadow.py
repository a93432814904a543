"""Shadow: what the kernel executes against its table, by a shadow call stack."""

from __future__ import annotations

from msgspec.structs import replace

from harness.boot.machine import MissingMachine
from harness.boot.outcome import BootResult
from harness.boot.shadow.shadow import ShadowResult, shadow
from harness.coverage import Coverage
from harness.elf.load import load
from harness.elf.program import Program
from harness.errors import HarnessError
from harness.progress import Progress
from harness.result import Stage, StageResult
from harness.stages.covered import covered
from harness.stages.guard import Missing, guard, judged, skipped, unless
from harness.stages.subject import Subject


def stage(
    subject: Subject,
    booted: BootResult | None,
    progress: Progress,
    *,
    saved_bp: bool = False,
) -> tuple[StageResult, Coverage | None]:
    """Boot the kernel under the plugin that checks every instruction it executes.

    It sees what the comparison of two unwinders cannot: an entry that is wrong in
    the running kernel as in the image; with ``saved_bp`` a lost %rbp, too. A kernel that
    did not boot is not checked.

    Returns the stage, and what it has covered, if there is a verdict.
    """
    if booted is None:
        return skipped(Stage.SHADOW, subject.name, "it did not boot"), None
    found: list[Coverage] = []

    def work() -> StageResult:
        progress(f"checking what {subject.name} executes on {subject.platform}")
        program = load(subject.kernel.vmlinux)
        try:
            result = shadow(
                subject.toolbox(),
                subject.kernel,
                subject.platform,
                subject.config,
                program,
                saved_bp=saved_bp,
            )
        except MissingMachine as exc:
            raise Missing(exc.message, exc.hint or "") from exc
        stage, coverage = _judged(subject, program, result, booted.seconds)
        found.extend([] if result.reason or coverage is None else [coverage])
        return stage

    return guard(Stage.SHADOW, subject.name, work), found[0] if found else None


def _judged(
    subject: Subject, program: Program, result: ShadowResult, plain_s: float
) -> tuple[StageResult, Coverage | None]:
    again = [
        replace(finding, reproduce=f"{subject.command} --shadow")
        for finding in result.findings
    ]
    notes = [f"{result.seconds:.1f} s, without the plugin {plain_s:.1f} s"]
    if undecided := result.counts.get("undecided"):
        notes.append(f"claims that take memory no plugin can read: {undecided}")
    if unchecked := result.counts.get("without_a_table"):
        notes.append(
            f"executed where no table is, followed and not checked: {unchecked}"
        )
    if result.cut:  # the plain boot has less of a workload: nobody else tells
        notes.append(
            f"workload cut short, so that less is covered: {', '.join(result.cut)}"
        )
    modules = subject.kernel.modules
    names = subject.features(program)
    has = None
    try:
        has = covered(program, names, modules, subject.platform, result.record)
    except HarnessError as exc:
        if not again:
            raise
        notes.append(f"what was covered is not known: {exc.message}")  # findings stand
    counts = result.counts | (has.counts if has else {})
    judgement = judged(Stage.SHADOW, subject.name, again, counts, notes)
    return unless(judgement, result.reason), has.coverage if has else None
