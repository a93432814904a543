"""Boots of a real kernel: the four ends of a boot, and machines that are missing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.boot import boot as booting
from harness.boot import kvm_probe
from harness.boot.boot import findings
from harness.boot.initramfs import Toolbox
from harness.boot.machine import MachineConfig, MissingMachine
from harness.boot.outcome import BootResult, Status
from harness.container import image as images
from harness.container.engine import connect
from harness.errors import InfraError
from harness.pytest_plugin import Kernel
from harness.variant import Platform

pytestmark = pytest.mark.boot


@pytest.fixture(scope="module")
def toolbox() -> Iterator[Toolbox]:
    """Yield the machine image, and the engine that runs it."""
    with connect() as engine:
        yield Toolbox(engine, images.ensure(engine, images.machine()).tag)


def boot(
    toolbox: Toolbox, kernel: Kernel, platform: Platform, **choices: object
) -> BootResult:
    """Boot ``kernel`` on ``platform``."""
    build = kernel.build
    assert build.bzimage is not None, f"{build.root} has no bzImage"
    image = booting.Kernel(build.bzimage, build.kernels[0], build.modules)
    config = MachineConfig(**choices)  # type: ignore[arg-type]
    return booting.boot(toolbox, image, platform, config)


def test_boots_on_its_platform(toolbox: Toolbox, kernel: Kernel) -> None:
    """The kernel boots on the platform that it was built for, and proves it."""
    result = boot(toolbox, kernel, kernel.platform)
    assert result.status is Status.BOOTED, "\n".join(result.console_tail)
    assert findings(result) == ()
    assert result.counts["faults"] > 500
    assert result.counts["tasks"] == 1
    stacks = [name for name in result.evidence.texts if name.startswith("stack/")]
    assert len(stacks) > 10
    assert "do_syscall_64" in result.evidence.text("stack/")
    assert "Call Trace" in result.evidence.text("tasks")


def test_native_nmi(toolbox: Toolbox, kernel: Kernel) -> None:
    """Every kernel boots natively, too, and takes an NMI there."""
    result = boot(toolbox, kernel, Platform.NATIVE)
    assert findings(result) == ()
    assert result.counts["nmi"] == 1


def test_panic(toolbox: Toolbox, kernel: Kernel) -> None:
    """A kernel that panics is a finding with the kernel's words and its console."""
    result = boot(toolbox, kernel, Platform.NATIVE, append="orc.panic=1")
    assert result.status is Status.PANICKED
    (found,) = findings(result)
    assert found.rule == "boot/panic"
    assert "sysrq triggered crash" in found.message
    assert any("Kernel panic" in line for line in found.window)


def test_hang(toolbox: Toolbox, kernel: Kernel) -> None:
    """A kernel that never ends is killed at its deadline, which is printed."""
    result = boot(toolbox, kernel, Platform.NATIVE, append="orc.hang=1", timeout_s=7.5)
    assert result.status is Status.HUNG
    (found,) = findings(result)
    assert found.rule == "boot/hang"
    assert "deadline of 15 s" in found.message  # the second, of twice the time
    assert "userspace got as far as hello" in found.message
    assert found.window


def test_no_userspace(toolbox: Toolbox, kernel: Kernel) -> None:
    """A kernel that finds no init panics before any evidence."""
    result = boot(toolbox, kernel, Platform.NATIVE, append="rdinit=/none root=/none")
    assert result.status is Status.PANICKED
    assert not result.evidence.hello
    assert "Kernel panic" in result.message


def test_early_hang_on_vsmp(toolbox: Toolbox, kernel: Kernel) -> None:
    """A kernel that hangs while the device model has it is judged as any other."""
    if kernel.platform is not Platform.VSMP:
        pytest.skip("SKIP: for kernels that are built for vSMP")
    result = boot(toolbox, kernel, Platform.VSMP, append="mem=2M", timeout_s=7.5)
    assert result.status is Status.HUNG
    assert "before userspace ran" in result.message


def test_lost_machine(toolbox: Toolbox, kernel: Kernel) -> None:
    """A QEMU that dies under the guest is our error, never the kernel's."""
    build = kernel.build
    assert build.bzimage is not None
    image = booting.Kernel(build.bzimage, build.kernels[0])
    with booting.session(toolbox, image, Platform.NATIVE) as session:
        session.start()
        session.machine.qmp.quit()
        result = session.end()
    assert result.status is Status.LOST
    with pytest.raises(InfraError, match="lost the native machine"):
        findings(result)


def test_missing_hypervisor(toolbox: Toolbox, kernel: Kernel) -> None:
    """Without a Xen there is a MISS that names the file and the remedy."""
    with pytest.raises(MissingMachine, match="no Xen hypervisor at /none/xen") as told:
        boot(toolbox, kernel, Platform.XEN, xen="/none/xen")
    assert "--xen FILE" in (told.value.hint or "")


def test_missing_qemu(toolbox: Toolbox, kernel: Kernel) -> None:
    """A QEMU that is not there is told at once, not at the deadline."""
    with pytest.raises(InfraError, match="no-such-qemu"):
        boot(toolbox, kernel, Platform.NATIVE, qemu="no-such-qemu")


def test_cpu_that_qemu_does_not_know(toolbox: Toolbox, kernel: Kernel) -> None:
    """What QEMU says before it ends is in the error."""
    with pytest.raises(InfraError, match=r"did not start.*unable to find CPU model"):
        boot(toolbox, kernel, Platform.NATIVE, cpu="80287")


def test_probe_of_a_working_machine(toolbox: Toolbox) -> None:
    """The tiny guest of the KVM probe really says its words, here under TCG."""
    qemu = MachineConfig().qemu
    assert kvm_probe.reason_against(toolbox, qemu, accel="tcg") == ""
