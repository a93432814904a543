"""Boot: a build on its platform, to the evidence that its userspace gives."""

from __future__ import annotations

from harness.boot import boot
from harness.boot.initramfs import Toolbox
from harness.boot.machine import MachineConfig, MissingMachine
from harness.boot.outcome import BootResult
from harness.progress import Progress
from harness.result import Stage, StageResult
from harness.stages.guard import Missing, guard, judged
from harness.variant import Platform


def stage(
    toolbox: Toolbox,
    kernel: boot.Kernel,
    name: str,
    platform: Platform,
    config: MachineConfig,
    progress: Progress,
) -> tuple[StageResult, BootResult | None]:
    """Boot ``kernel`` on ``platform``; return the stage and what the guest left."""
    ended: list[BootResult] = []

    def work() -> StageResult:
        progress(f"booting {name} on {platform}")
        try:
            result = boot.boot(toolbox, kernel, platform, config)
        except MissingMachine as exc:
            raise Missing(exc.message, exc.hint or "") from exc
        ended.append(result)
        findings = boot.findings(result)
        notes = [
            result.message,
            *(f"{key}: {value}" for key, value in result.facts.items()),
            *(f"{key}: {value}" for key, value in result.versions.items()),
        ]
        if findings:
            notes += ["console:", *result.console_tail]
        return judged(Stage.BOOT, name, findings, result.counts, notes)

    return guard(Stage.BOOT, name, work), ended[0] if ended else None
