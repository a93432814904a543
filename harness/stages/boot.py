"""Boot: a build on its platform, to the evidence that its userspace gives."""

from __future__ import annotations

from msgspec.structs import replace

from harness.boot import boot
from harness.boot.debug import HELD_S, OnStop, Stopped, run_to_death
from harness.boot.gdb import Gdb
from harness.boot.machine import MissingMachine
from harness.boot.outcome import BootResult
from harness.boot.outcome import Status as BootStatus
from harness.elf.load import load
from harness.progress import Progress
from harness.result import Stage, StageResult
from harness.stages.guard import Missing, guard, judged
from harness.stages.subject import Subject
from harness.variant import Platform

DEATH_S = 240.0  # as long as the slowest platform takes to boot


def stage(
    subject: Subject, progress: Progress, on_stop: OnStop | None = None
) -> tuple[StageResult, BootResult | None]:
    """Boot ``subject``; return the stage, and what the guest left if it came up.

    With ``on_stop`` a kernel that dies is booted once more, and stands at its panic()
    while that is called.
    """
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
        if on_stop and result.status is BootStatus.PANICKED:
            progress(f"booting {subject.name} once more, to its death")
            notes.append(_stand(subject, on_stop))
        again = [replace(finding, reproduce=subject.command) for finding in findings]
        return judged(Stage.BOOT, subject.name, again, result.counts, notes)

    return guard(Stage.BOOT, subject.name, work), ended[0] if ended else None


def _stand(subject: Subject, on_stop: OnStop) -> str:
    if subject.platform is Platform.KVM:
        return (
            "not left standing: a nested guest has no breakpoints before it is patched"
        )
    config = replace(subject.config, timeout_s=HELD_S)
    with boot.session(
        subject.toolbox(), subject.kernel, subject.platform, config
    ) as running:
        running.start()
        machine, kernel = running.machine, subject.kernel
        with Gdb.connect(machine.gdb_socket) as gdb:
            where = run_to_death(gdb, load(kernel.vmlinux), DEATH_S)
        if where is None:
            return "not left standing: it did not come to panic() a second time"
        on_stop(Stopped(where, "it panics", kernel.vmlinux, machine.gdb_socket))
        return f"stood at {where}"
