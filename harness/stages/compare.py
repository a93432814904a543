"""Compare: the running kernel's own unwinder against the static table."""

from __future__ import annotations

from dataclasses import replace

from harness.boot import boot
from harness.boot.compare import NATIVE_NEEDS, CompareResult, Needs, probe
from harness.boot.gdb import Gdb
from harness.boot.initramfs import Toolbox
from harness.boot.machine import MachineConfig, MissingMachine
from harness.boot.outcome import BootResult
from harness.boot.traces import check_traces
from harness.elf.program import load
from harness.errors import ExitCode
from harness.progress import Progress
from harness.result import Stage, StageResult, Status
from harness.stages.guard import Missing, guard, judged
from harness.variant import Platform

HOLD_S = 90
DEADLINE_S = 75.0
NEEDS = {Platform.NATIVE: NATIVE_NEEDS}


def stage(
    toolbox: Toolbox,
    kernel: boot.Kernel,
    name: str,
    platform: Platform,
    config: MachineConfig,
    seed: int,
    booted: BootResult | None,
    progress: Progress,
) -> StageResult:
    """Compare what the kernel's own unwinder sees with its static table.

    The guest is booted once more, stopped hundreds of times and made to unwind
    itself. No debugger reaches into a KVM guest that is nested: the traces that it
    printed of itself while it ``booted`` are compared instead.
    """

    def work() -> StageResult:
        progress(f"comparing {name} on {platform}")
        held = replace(config, hold_s=HOLD_S)
        try:
            if platform is Platform.KVM:
                result = _traces(kernel, booted)
            else:
                result = _probed(toolbox, kernel, platform, held, seed, progress)
        except MissingMachine as exc:
            raise Missing(exc.message, exc.hint or "") from exc
        judgement = judged(
            Stage.COMPARE, name, result.findings, result.counts, result.notes
        )
        if result.reason and judgement.status is Status.PASS:
            return replace(
                judgement,
                status=Status.ERROR,
                reason=result.reason,
                exit_code=ExitCode.INFRASTRUCTURE,
            )
        return judgement

    return guard(Stage.COMPARE, name, work)


def _traces(kernel: boot.Kernel, booted: BootResult | None) -> CompareResult:
    if booted is None:
        raise Missing("the guest did not boot, so there are no traces of its own")
    texts = {**booted.evidence.texts, "console": booted.console}
    return check_traces(texts, load(kernel.vmlinux))


def _probed(
    toolbox: Toolbox,
    kernel: boot.Kernel,
    platform: Platform,
    config: MachineConfig,
    seed: int,
    progress: Progress,
) -> CompareResult:
    program = load(kernel.vmlinux)
    with boot.session(toolbox, kernel, platform, config) as running:
        running.start()
        machine = running.machine
        with Gdb.connect(machine.gdb_socket) as gdb:
            return probe(
                gdb,
                program,
                deadline_s=DEADLINE_S,
                needs=NEEDS.get(platform, Needs()),
                inject_nmi=machine.qmp.inject_nmi if machine.plan.nmi else None,
                seed=seed,
                progress=progress,
            )
