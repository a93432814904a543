"""Machine: one QEMU process in a container, with the files and sockets it serves.

A Plan says what to run; a Machine runs it, paused at reset until ``cont``. Its
directory holds the console, the evidence stream, QEMU's control socket and gdbstub.
Leaving the block kills it and removes the directory, whatever happened.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct, field

from harness.boot import qmp
from harness.boot.evidence import Evidence, parse
from harness.boot.initramfs import Toolbox
from harness.boot.outcome import Ending, tail
from harness.container.job import Limits, Mount, Running
from harness.errors import InfraError

EVIDENCE_PORT = 0xE9  # QEMU's isa-debugcon
POLL_S = 0.02
QUIT_S = 10.0
BEAT_S = 6.0  # the nested host says that it is alive twice a second of its own time
STALL_S = 2.0
OVERHEAD_MB = 1024  # what QEMU needs beside the guest's memory
SOCKET_PATH_BYTES = 107  # sockaddr_un.sun_path, less the closing NUL
TARGET = "/machine"


class MissingMachine(InfraError):
    """This machine has not what a platform takes: a MISS, not a failure."""


class MachineConfig(Struct, frozen=True):
    """What people may choose about a machine; the defaults suit each platform.

    Attributes:
        qemu: QEMU's name or path in the machine image.
        xen: the hypervisor, in the machine image or on this host.
        nested: directory in the machine image with ``vmlinuz`` and ``modules`` of
            the kernel that hosts a nested KVM guest.
        cpu: QEMU's -cpu; None is the platform's own.
        memory_mb: the guest's memory; None is the platform's own.
        smp: how many CPUs the machine has; a nested guest has its own.
        timeout_s: deadline of one boot; None is the platform's own.
        append: added to the kernel command line.
        xen_args: added to the hypervisor's command line.
        hold_s: how long the guest keeps its workload running, for a probe.
        kaslr: the kernel may move itself.
        host_kvm: use this host's KVM where its probe passes.
        debugged: a nested guest waits at reset for us to come to its stub.
    """

    qemu: str = "qemu-system-x86_64"
    xen: str = "/opt/machine/xen"
    nested: str = "/opt/machine/l1"
    cpu: str | None = None
    memory_mb: int | None = None
    smp: int = 1
    timeout_s: float | None = None
    append: str = ""
    xen_args: str = ""
    hold_s: int = 0
    kaslr: bool = False
    host_kvm: bool = True
    debugged: bool = False


class Plan(Struct, frozen=True):
    """A machine to run: pure data.

    Attributes:
        argv: QEMU and its arguments; paths are as QEMU sees them.
        files: name in the machine's directory -> content, or file to copy there.
        nonce: what the guest's evidence is led by.
        memory_mb: the guest's memory.
        timeout_s: deadline of the whole boot, hold included.
        devices: device nodes that QEMU needs.
        user: ``uid:gid`` that QEMU must run as; None is the engine's usual one.
        nmi: an NMI that QEMU injects reaches the kernel under test.
        outer_nonce: for a nested guest, what its host's evidence is led by.
        stub: file name of the socket where the kernel's gdbstub listens.
        spins: its breakpoints have to be spins (``spin.py``).
        facts: how the machine was made.
    """

    argv: tuple[str, ...]
    files: Mapping[str, bytes | Path]
    nonce: str
    memory_mb: int
    timeout_s: float
    devices: tuple[str, ...] = ()
    user: str | None = None
    nmi: bool = False
    outer_nonce: str = ""
    stub: str = "gdb"
    spins: bool = False
    facts: Mapping[str, str] = field(default_factory=dict)


class Boards(Struct, frozen=True):
    """The part of a QEMU command line that platforms choose.

    Attributes:
        kernel, initrd: what -kernel and -initrd take (paths as QEMU sees them).
        console: file name of the first serial port.
        ports: file name -> I/O port whose bytes go to it.
    """

    kernel: str
    initrd: str
    append: str
    cpu: str
    memory_mb: int
    accel: str = "tcg"
    smp: int = 1
    console: str = "console"
    ports: Mapping[str, int] = field(
        default_factory=lambda: {"evidence": EVIDENCE_PORT}
    )


def qemu_argv(qemu: str, board: Boards, directory: str) -> tuple[str, ...]:
    """Return QEMU's command line: paused at reset, its files in ``directory``."""
    argv = [
        *(qemu, "-nodefaults", "-no-user-config", "-display", "none"),
        *("-accel", board.accel, "-cpu", board.cpu),
        *("-m", str(board.memory_mb), "-smp", str(board.smp)),
        *("-kernel", board.kernel, "-initrd", board.initrd),
        *("-append", board.append, "-no-reboot", "-S"),
        *("-serial", f"file:{directory}/{board.console}"),
        *("-qmp", f"unix:{directory}/qmp,server=on,wait=off"),
        *("-gdb", f"unix:{directory}/gdb,server=on,wait=off"),
    ]
    for name, port in board.ports.items():
        argv += ["-chardev", f"file,id={name},path={directory}/{name}"]
        argv += ["-device", f"isa-debugcon,iobase={port:#x},chardev={name}"]
    return tuple(argv)


class Machine:
    """A running QEMU; made by :func:`start`, paused until :meth:`cont`."""

    def __init__(
        self,
        plan: Plan,
        directory: Path,
        running: Running,
        control: qmp.Qmp,
        inside: str = "",
    ) -> None:
        """``inside`` is what QEMU calls its ``directory``."""
        self.plan = plan
        self.directory = directory
        self.inside = inside or str(directory)
        self.qmp = control
        self._running = running
        self._started = time.monotonic()
        self._injected = False
        self._pulse = _Pulse()

    @property
    def gdb_socket(self) -> Path:
        """The socket of the gdbstub that sees the kernel under test."""
        return self.directory / self.plan.stub

    @property
    def seconds(self) -> float:
        """How long it has run."""
        return time.monotonic() - self._started

    @property
    def remaining_s(self) -> float:
        """How long until its deadline (not below 0)."""
        return max(self.plan.timeout_s - self.seconds, 0.0)

    def console(self) -> str:
        """Return the kernel's console so far."""
        return self.read("console").decode(errors="replace").replace("\r", "")

    def read(self, name: str) -> bytes:
        """Return a file of the machine's directory so far; empty if there is none."""
        try:
            return (self.directory / name).read_bytes()
        except FileNotFoundError:
            return b""

    def evidence(self) -> Evidence:
        """Return what the guest's userspace has said so far."""
        return parse(self.read("evidence"), self.plan.nonce)

    def outer_evidence(self) -> Evidence:
        """Return what a nested guest's host has said so far."""
        return parse(self.read("outer-evidence"), self.plan.outer_nonce)

    def last_words(self) -> tuple[str, ...]:
        """Return the last lines of the console."""
        return tail(self.console())

    def alive(self) -> bool:
        """Tell whether QEMU still runs."""
        return self._running.alive()

    def cont(self) -> None:
        """Let the guest run."""
        self.qmp.cont()

    def wait_for_mark(self, mark: str, timeout_s: float) -> None:
        """Wait until userspace passes ``mark``, serving the guest meanwhile.

        Raises:
            InfraError: it ended, or did not get there within ``timeout_s``.
        """
        deadline = time.monotonic() + timeout_s
        while mark not in (seen := self.evidence()).marks:
            if not self.alive() or time.monotonic() > deadline:
                end = "ended" if not self.alive() else f"took over {timeout_s:g} s"
                raise InfraError(
                    f"the guest {end} before its mark {mark!r} "
                    f"(record {seen.records})\n" + "\n".join(self.last_words())
                )
            self.serve(seen)
            time.sleep(POLL_S)

    def serve(self, seen: Evidence) -> None:
        """Do what the guest needs of us: one NMI, at its mark; or a poke."""
        if self.plan.nmi and "nmi" in seen.marks and not self._injected:
            self._injected = True
            self.qmp.inject_nmi()
        if self.plan.outer_nonce and self._pulse.stalled(self.read("outer-evidence")):
            self.qmp.poke()

    @property
    def pokes(self) -> int:
        """How often a nested guest's host had to be woken."""
        return self._pulse.stalls

    def wait(self) -> Ending:
        """Wait for the end, or the plan's deadline, and tell how it ended."""
        closed_at: float | None = None
        grace_s = QUIT_S * (3 if self.plan.outer_nonce else 1)
        while self.alive() and self.remaining_s:
            seen = self.evidence()
            self.serve(seen)
            if seen.complete:
                closed_at = closed_at or time.monotonic()
                if time.monotonic() - closed_at > grace_s:
                    self.qmp.quit()  # it said all, and cannot power off
            time.sleep(POLL_S)
        reason = self.qmp.shutdown_reason()
        timed_out = self.alive()
        host_alive = not timed_out or self._host_alive()
        if timed_out:
            self._running.kill()
        status = self._running.wait(QUIT_S)
        output = self._running.output()
        return Ending(timed_out, status.returncode, reason, output, host_alive)

    def _host_alive(self) -> bool:
        """Tell whether a nested guest's host still sends its heartbeat."""
        if not self.plan.outer_nonce:
            return True
        before = len(self.read("outer-evidence"))
        time.sleep(BEAT_S)
        return len(self.read("outer-evidence")) > before


class _Pulse:
    """Watches the heartbeat of a nested guest's host.

    QEMU's TCG can lose an interrupt of a CPU that runs nested guests (seen with
    10.0.13: a timer interrupt pending in the local APIC, the CPU halted for ever,
    because leaving a nested guest changes the CPU's interrupt requests without a
    lock). Any other interrupt delivers the lost one, too.
    """

    def __init__(self) -> None:
        self.stalls = 0
        self._size = 0
        self._since = time.monotonic()

    def stalled(self, said: bytes) -> bool:
        """Tell whether ``said`` has not grown for a while; ask again later."""
        now = time.monotonic()
        if len(said) != self._size or b" mark running\n" not in said:
            self._size, self._since = len(said), now
            return False
        if now - self._since < STALL_S:
            return False
        self._since = now
        self.stalls += 1
        return True


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Yield a directory whose socket paths are short enough; removed at the end.

    Raises:
        InfraError: the temporary directory's own path is too long for a socket.
    """
    with tempfile.TemporaryDirectory(prefix="orc-vm-") as name:
        if len(f"{name}/qmp") > SOCKET_PATH_BYTES:
            raise InfraError(
                f"{name} is too long a path for a Unix socket",
                hint="set TMPDIR to a shorter one",
            )
        yield Path(name)


@contextlib.contextmanager
def start(toolbox: Toolbox, plan: Plan, directory: Path) -> Iterator[Machine]:
    """Start ``plan`` in ``directory``, paused at reset; yield the Machine.

    Raises:
        InfraError: QEMU does not start; its own words are in the message.
    """
    for name, content in plan.files.items():
        _place(directory / name, content)
    mount = machine_mount(directory)
    limits = Limits(
        memory_mb=plan.memory_mb + OVERHEAD_MB, timeout_s=plan.timeout_s + QUIT_S
    )
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(
            toolbox.engine.start(
                toolbox.image,
                plan.argv,
                mounts=(mount,),
                limits=limits,
                devices=plan.devices,
                user=plan.user,
            )
        )
        control = stack.enter_context(_control(directory / "qmp", running))
        yield Machine(plan, directory, running, control, toolbox.engine.path(mount))


def machine_mount(directory: Path) -> Mount:
    """Return how a machine's directory is mounted into its container."""
    return Mount(directory, TARGET, writable=True)


def _place(path: Path, content: bytes | Path) -> None:
    if isinstance(content, Path):
        shutil.copyfile(content, path)
    else:
        path.write_bytes(content)
    path.chmod(0o644)


@contextlib.contextmanager
def _control(path: Path, running: Running) -> Iterator[qmp.Qmp]:
    """Connect to QEMU's control socket, or tell why QEMU is not there."""
    with contextlib.ExitStack() as stack:
        try:
            connection = qmp.connect(path, alive=running.alive)
            control = stack.enter_context(connection)
        except InfraError as exc:
            running.wait(qmp.POLL_S * 100)
            said = "\n".join(tail(running.output())) or "it said nothing"
            raise InfraError(f"qemu did not start: {said} ({exc.message})") from exc
        yield control


def xen_version(console: str) -> str:
    """Return the version in Xen's banner, or an empty string."""
    found = re.search(r"Xen version (\S+)", console)
    return found.group(1) if found else ""
