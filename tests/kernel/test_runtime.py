"""Does each kernel boot on its platform, and unwind as its static table says?"""

from __future__ import annotations

import functools

import pytest

from harness.boot.boot import Kernel as BootKernel
from harness.boot.initramfs import Toolbox
from harness.boot.machine import MachineConfig
from harness.boot.outcome import BootResult
from harness.progress import silent
from harness.pytest_plugin import Kernel
from harness.report import text
from harness.result import StageResult, Status
from harness.stages import boot, compare, shadow
from harness.stages.subject import Subject


def bootable(kernel: Kernel) -> BootKernel:
    build = kernel.build
    if build.bzimage is None or not build.kernels:
        pytest.skip(f"SKIP: {build.root} has no bzImage and vmlinux to boot")
    return BootKernel(build.bzimage, build.kernels[0], build.modules)


def report(stage: StageResult) -> None:
    """Fail or skip as the stage's status says, with its evidence."""
    reason = "\n  hint: ".join(filter(None, (stage.reason, stage.hint)))
    if stage.status is Status.MISS:
        pytest.skip(f"MISS: {reason}")
    if stage.status is not Status.PASS:
        shown = ["\n".join(text.lines(finding)) for finding in stage.findings]
        lines = [f"{stage.status}: {reason}", *shown, *stage.notes]
        pytest.fail("\n".join(lines), pytrace=False)


def subject(kernel: Kernel, toolbox: Toolbox) -> Subject:
    return Subject(
        kernel.name,
        kernel.platform,
        bootable(kernel),
        lambda: toolbox,
        MachineConfig(),
    )


@functools.cache
def booted(kernel: Kernel, toolbox: Toolbox) -> tuple[StageResult, BootResult | None]:
    """Boot each kernel once: what compares it may need what it left."""
    return boot.stage(subject(kernel, toolbox), silent)


@pytest.mark.boot
def test_boots(kernel: Kernel, kernel_toolbox: Toolbox) -> None:
    """Userspace comes up, does its work and says so over its own channel."""
    report(booted(kernel, kernel_toolbox)[0])


@pytest.mark.boot
def test_unwinder_agrees(kernel: Kernel, kernel_toolbox: Toolbox) -> None:
    """The kernel's own unwinder and the static table see the same frames."""
    _, left = booted(kernel, kernel_toolbox)
    report(compare.stage(subject(kernel, kernel_toolbox), 0, left, silent))


@pytest.mark.boot
def test_what_is_executed_has_its_entries(
    kernel: Kernel, kernel_toolbox: Toolbox
) -> None:
    """At every instruction the caller's frame is where the table says."""
    _, left = booted(kernel, kernel_toolbox)
    judgement, _ = shadow.stage(subject(kernel, kernel_toolbox), left, silent)
    report(judgement)
