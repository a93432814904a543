"""Boot: a kernel on a platform, from reset to its outcome.

``boot`` does it in one go. ``session`` hands the machine out on the way, for those
who look into a running kernel: paused at reset, then started, then ended.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType

from msgspec import Struct
from msgspec.structs import replace

from harness.artifacts import Artifacts
from harness.boot import init_end, initramfs, kaslr, machine, outcome, vsmp_device
from harness.boot.debugger import debugger
from harness.boot.gdb import Gdb
from harness.boot.initramfs import Toolbox
from harness.boot.machine import Machine, MachineConfig, Plan
from harness.boot.outcome import BootResult, Ending, Proof
from harness.boot.platforms import kvm, native, vsmp, xen
from harness.boot.platforms.request import Request
from harness.boot.wire import GdbTimeout, LostGuest
from harness.elf import bzimage
from harness.elf.file import read_file
from harness.elf.load import load
from harness.elf.program import Program
from harness.elf.relocs import parse_relocs, slid
from harness.errors import UserError
from harness.finding import Finding
from harness.variant import Platform

Look = Callable[[Machine, Gdb, Program], None]

LATER = 2  # times the deadline, for a kernel that was not through at it
_USUAL = MachineConfig()
_PLANS: Mapping[Platform, Callable[[Request], Plan]] = {
    Platform.NATIVE: native.plan,
    Platform.KVM: kvm.plan,
    Platform.XEN: xen.plan,
    Platform.VSMP: vsmp.plan,
}
_MODULES: Mapping[Platform, ModuleType] = {
    Platform.NATIVE: native,
    Platform.KVM: kvm,
    Platform.XEN: xen,
    Platform.VSMP: vsmp,
}


class Kernel(Struct, frozen=True):
    """What a boot needs of a build.

    Attributes:
        vmlinux: with symbols; the vSMP device model looks its addresses up there.
        modules: put into the guest, which loads and unloads them.
    """

    bzimage: Path
    vmlinux: Path
    modules: tuple[Path, ...] = ()


def kernel_of(artifacts: Artifacts) -> Kernel:
    """Return the kernel in an entry of the store."""
    return Kernel(artifacts.bzimage, artifacts.vmlinux, artifacts.modules)


def boot(
    toolbox: Toolbox,
    kernel: Kernel,
    platform: Platform,
    config: MachineConfig = _USUAL,
) -> BootResult:
    """Boot ``kernel`` on ``platform`` and return how it ended.

    A machine that is lost is our trouble, and a kernel that does not come to its end in
    time may be no more than on a busy one: so the boot is tried once more, on a fresh
    machine, and with twice the time. The fact ``lost before`` (or ``hung before``) then
    keeps what became of the first.

    Raises:
        MissingMachine: this machine has not what the platform takes.
        InfraError: the machine could not be started.
        UserError: a file is missing, or is no kernel for this platform.
    """
    first = _attempt(toolbox, kernel, platform, config)
    if first.status is outcome.Status.HUNG:
        usual_s = first.deadline_s - config.hold_s
        config = replace(config, timeout_s=LATER * usual_s)
    elif first.status is not outcome.Status.LOST:
        return first
    second = _attempt(toolbox, kernel, platform, config)
    before = f"{first.status} before"
    return replace(second, facts={**second.facts, before: first.message})


def _attempt(
    toolbox: Toolbox, kernel: Kernel, platform: Platform, config: MachineConfig
) -> BootResult:
    with session(toolbox, kernel, platform, config) as running:
        running.start()
        return running.end()


def findings(result: BootResult) -> tuple[Finding, ...]:
    """Return what ``result`` says is wrong with the kernel.

    Raises:
        InfraError: the machine was lost, so that there is no verdict.
    """
    proofs: tuple[Proof, ...] = _MODULES[result.platform].PROOFS
    return outcome.findings(result, proofs)


class Session:
    """One boot in progress; made by :func:`session`."""

    def __init__(
        self, on: Machine, kernel: Kernel, platform: Platform, *, kaslr: bool = False
    ) -> None:
        self.machine = on
        self.program: Program | None = None  # where it runs, once that is known
        self._kaslr = kaslr
        self.platform = platform
        self._kernel = kernel
        self._facts: dict[str, str] = dict(on.plan.facts)

    def start(self, look: Look | None = None) -> None:
        """Let the kernel run; on vSMP, play the device while it boots.

        ``look`` is called with the guest stopped where its text has been patched and
        its init memory is still there. A kernel that dies or hangs meanwhile is no
        error here: :meth:`end` tells.
        """
        vsmp_guest = self.platform is Platform.VSMP
        plan = self.machine.plan
        if plan.outer_nonce or (not vsmp_guest and look is None):
            self.machine.cont()
        if not vsmp_guest and look is None:
            return
        linked = load(self._kernel.vmlinux)
        with (
            contextlib.suppress(LostGuest, GdbTimeout),
            debugger(self.machine) as gdb,
        ):
            limit_s = self.machine.remaining_s
            if vsmp_guest:
                if self._kaslr:
                    slide = kaslr.run_to_start(gdb, linked, limit_s)
                    linked = self._moved(linked, slide)
                served = vsmp_device.serve(gdb, linked, vsmp.REGISTERS, limit_s)
                self._facts.update(served.facts)
            else:
                if self._kaslr or plan.spins:
                    linked = self._moved(linked, kaslr.find_slide(gdb, linked, limit_s))
                init_end.run_there(gdb, linked, limit_s)
            self.program = linked
            if look is not None:
                look(self.machine, gdb, linked)
            gdb.cont()

    def _moved(self, linked: Program, slide: int) -> Program:
        """Return the kernel at the address that it has chosen."""
        if self._kaslr:
            self._facts["kaslr"] = f"{slide:#x}"
        if not slide:
            return linked
        path = self._kernel.bzimage
        packed = bzimage.parse_bzimage(read_file(path), path.name)
        return slid(linked, parse_relocs(packed.vmlinux, path.name), slide)

    def end(self) -> BootResult:
        """Wait for the end of the boot and judge it."""
        running, plan = self.machine, self.machine.plan
        ending = running.wait()
        seconds = running.seconds
        if plan.outer_nonce:
            ending = _inner_ending(running, ending)
            self._facts["nested.pokes"] = str(running.pokes)
        evidence, console = running.evidence(), running.console()
        status, message = outcome.judge(ending, evidence, console, plan.timeout_s)
        if ending.reason == "host-qmp-quit":
            self._facts["poweroff"] = "no: the guest did not end its machine"
        versions = {
            "qemu": running.qmp.version,
            "xen": machine.xen_version(console),
            "linux": evidence.facts.get("release", ""),
        }
        return BootResult(
            status=status,
            platform=self.platform,
            message=message,
            evidence=evidence,
            console=console or running.read("outer-console").decode(errors="replace"),
            seconds=seconds,
            deadline_s=plan.timeout_s,
            versions={name: text for name, text in versions.items() if text},
            facts=self._facts,
            command=plan.argv,
        )


@contextlib.contextmanager
def session(
    toolbox: Toolbox,
    kernel: Kernel,
    platform: Platform,
    config: MachineConfig = _USUAL,
    equip: Callable[[Plan, str], Plan] | None = None,
) -> Iterator[Session]:
    """Yield a Session of ``kernel`` on ``platform``, paused at reset.

    ``equip`` adds to the plan, given the machine's directory as QEMU sees it.

    Raises:
        See :func:`boot`.
    """
    if not kernel.bzimage.is_file():
        raise UserError(f"{kernel.bzimage} does not exist, expected a bzImage")
    init = initramfs.program(toolbox, "init")
    with machine.scratch() as directory:
        mount = machine.machine_mount(directory)
        request = Request(
            toolbox=toolbox,
            bzimage=kernel.bzimage,
            initrd=initramfs.guest(init, kernel.modules),
            config=config,
            nonce=secrets.token_hex(8),
            directory=toolbox.engine.path(mount),
        )
        plan = _PLANS[platform](request)
        if equip is not None:
            plan = equip(plan, request.directory)
        with machine.start(toolbox, plan, directory) as running:
            yield Session(running, kernel, platform, kaslr=config.kaslr)


def _inner_ending(running: Machine, outer: Ending) -> Ending:
    """Return how the inner QEMU ended, as the nested host told it."""
    said = running.outer_evidence()
    if outer.reason == "host-qmp-quit":
        return outer
    if said.complete:
        status = said.facts.get("qemu.exit", "")
        words = said.text("qemu")
        if status == "0":
            return Ending(False, 0, "guest-shutdown", words)
        code = int(status) if status.isdecimal() else -1
        return Ending(False, code, "", words)
    if outer.timed_out and outer.host_alive and "running" in said.marks:
        return outer
    words = running.read("outer-console").decode(errors="replace")
    return Ending(False, outer.returncode, "", f"{outer.output}\n{words}")
