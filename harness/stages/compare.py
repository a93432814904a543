"""Compare: the running kernel's own unwinder against the static table."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from harness.boot import boot, init_end
from harness.boot.boot import Look
from harness.boot.compare import CompareResult, probe
from harness.boot.debug import HELD_S, OnStop, Stopped
from harness.boot.debugger import debugger
from harness.boot.machine import MissingMachine
from harness.boot.needs import KVM_NEEDS, NATIVE_NEEDS, Needs
from harness.boot.outcome import BootResult
from harness.boot.traces import check_traces
from harness.elf.load import load
from harness.progress import Progress
from harness.result import Stage, StageResult
from harness.stages.again import again
from harness.stages.guard import Missing, guard, judged, skipped, unless
from harness.stages.subject import Subject
from harness.variant import Platform

DEADLINE_S = 150.0  # seconds are usual; a busy machine needs more
KVM_DEADLINE_S = 300.0  # two emulations deep
HELD_LONGER_S = 30
NEEDS = {Platform.NATIVE: NATIVE_NEEDS, Platform.KVM: KVM_NEEDS}


def stage(
    subject: Subject,
    seed: int,
    booted: BootResult | None,
    progress: Progress,
    look: Look | None = None,
    later: Look | None = None,
    on_stop: OnStop | None = None,
) -> StageResult:
    """Compare what the kernel's own unwinder sees with its static table.

    The guest is booted once more, stopped thousands of times and made to unwind
    itself. Of a KVM guest the traces that it printed of itself while it ``booted`` are
    compared, too. A kernel that did not boot is not compared. ``look`` is called at the
    end of the guest's init, ``again`` when all was compared. With ``on_stop`` the first
    finding ends it, and the guest stands there while that is called.
    """
    if booted is None:
        return skipped(Stage.COMPARE, subject.name, "it did not boot")

    def work() -> StageResult:
        progress(f"comparing {subject.name} on {subject.platform}")
        try:
            result, before = again(
                subject.platform,
                lambda: _probed(subject, seed, progress, look, later, on_stop),
                lambda result: "" if result.findings or result.blind else result.reason,
            )
        except MissingMachine as exc:
            raise Missing(exc.message, exc.hint or "") from exc
        if subject.platform is Platform.KVM:
            texts = {**booted.evidence.texts, "console": booted.console}
            result = together(result, check_traces(texts, load(subject.kernel.vmlinux)))
        if before:
            note = f"tried again, for the first try came to no verdict: {before}"
            result = replace(result, notes=(*result.notes, note))
        return _judged(subject, result)

    return guard(Stage.COMPARE, subject.name, work)


def together(probed: CompareResult, printed: CompareResult) -> CompareResult:
    """Return what was compared in the guest, and what it had printed, as one."""
    return replace(
        probed,
        counts=probed.counts | printed.counts,
        findings=(*probed.findings, *printed.findings),
        notes=(*probed.notes, *printed.notes),
        reason=probed.reason or printed.reason,
    )


def with_last_words(
    result: CompareResult, last_words: Callable[[], tuple[str, ...]]
) -> CompareResult:
    """Return ``result``, with what the console said last if there is no verdict."""
    if not result.reason or result.findings:
        return result
    said = (f"console: {line}" for line in last_words())
    return replace(result, notes=(*result.notes, *said))


def _judged(subject: Subject, result: CompareResult) -> StageResult:
    findings = [
        replace(finding, reproduce=f"{subject.command} --compare")
        for finding in result.findings
    ]
    judgement = judged(
        Stage.COMPARE, subject.name, findings, result.counts, result.notes
    )
    return unless(judgement, result.reason)


def _probed(
    subject: Subject,
    seed: int,
    progress: Progress,
    look: Look | None,
    later: Look | None,
    on_stop: OnStop | None,
) -> CompareResult:
    program = load(subject.kernel.vmlinux)
    nested = subject.platform is Platform.KVM
    deadline_s = KVM_DEADLINE_S if nested else DEADLINE_S
    hold_s = int(deadline_s) + HELD_LONGER_S
    config = replace(subject.config, hold_s=hold_s, debugged=True)
    if on_stop:
        config = replace(config, timeout_s=HELD_S)
    with boot.session(
        subject.toolbox(), subject.kernel, subject.platform, config
    ) as running:
        running.start(look)
        machine = running.machine
        if look is not None and machine.plan.spins and running.program is None:
            raise init_end.not_seen()
        with debugger(machine) as gdb:
            result = probe(
                gdb,
                program,
                deadline_s=deadline_s,
                needs=NEEDS.get(subject.platform, Needs()),
                inject_nmi=machine.qmp.inject_nmi if machine.plan.nmi else None,
                seed=seed,
                only_first=on_stop is not None,
                progress=progress,
            )
            result = with_last_words(result, machine.last_words)
            if later is not None and not result.reason:
                later(machine, gdb, running.program or program)
            at = gdb.registers().rip if on_stop and result.findings else 0
        if on_stop and result.findings:
            why = f"{result.findings[0].rule}: {result.findings[0].message}"
            place = program.slid(result.slide).location(at)
            vmlinux = subject.kernel.vmlinux
            on_stop(Stopped(place, why, vmlinux, machine.gdb_socket))
        return result
