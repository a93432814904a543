"""A boot from reset to its outcome, on a QEMU that is a thread of ours."""

from __future__ import annotations

import contextlib
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from harness.artifacts import Artifacts, Manifest
from harness.boot import boot as booting
from harness.boot import kaslr, machine, vsmp_device
from harness.boot.boot import Kernel, boot, findings, kernel_of, session
from harness.boot.gdb import Gdb
from harness.boot.initramfs import Toolbox
from harness.boot.machine import Machine, MachineConfig
from harness.boot.outcome import BootResult, Status
from harness.boot.wire import LostGuest
from harness.container.job import Exit, Job
from harness.elf import bzimage
from harness.elf.program import Program
from harness.errors import UserError
from harness.variant import Platform
from tests.builders.machines import Process, ScriptedEngine, qmp_server
from tests.builders.rspserver import FakeStub, serving
from tests.builders.running import Kernel as Running

OFF = {"event": "SHUTDOWN", "data": {"guest": True, "reason": "guest-shutdown"}}
QUIT = {"event": "SHUTDOWN", "data": {"guest": False, "reason": "host-qmp-quit"}}
SAID = ("hello", "fact release 6.12.1", "part traps 3 3")


@dataclass
class Guest:
    """What a machine's guest does once it runs.

    Attributes:
        files: name -> records, each to be led by the nonce of its machine.
        hangs: it never ends.
        exit: how QEMU ends.
    """

    said: Sequence[str] = ()
    console: str = ""
    outer: Sequence[str] = ()
    hangs: bool = False
    stub: FakeStub | None = None
    exit: Exit = field(default_factory=lambda: Exit(0))
    powers_off: bool = True

    def start(self, job: Job) -> Process:
        """Act as QEMU for one boot."""
        process = Process(self.exit, text="qemu: a word")
        directory = Path(job.mounts[0].source)
        answers = {
            "cont": ({"return": {}}, *((OFF,) if self.powers_off else ())),
            "quit": ({"return": {}}, QUIT),
        }
        ready = threading.Event()

        def run() -> None:
            with contextlib.ExitStack() as stack:
                seen = stack.enter_context(qmp_server(directory / "qmp", answers))
                asked = self.stub.seen if self.stub else seen
                if self.stub:
                    stack.enter_context(serving(self.stub, directory / "gdb"))
                ready.set()
                while not {"cont", "c"} & set(asked) and not process.killed:
                    threading.Event().wait(0.005)
                self._speak(job, directory)
                while self.hangs and "quit" not in seen and not process.killed:
                    threading.Event().wait(0.005)
                process.ended.set()
                process.ended.wait(10)

        threading.Thread(target=run, daemon=True).start()
        assert ready.wait(5)
        return process

    def _speak(self, job: Job, directory: Path) -> None:
        command_line = job.argv[job.argv.index("-append") + 1]
        nonce = command_line.partition("orc.nonce=")[2].split()[0]
        inner = nonce
        if self.outer:
            archive = (directory / "outer-initrd").read_bytes()
            inner = archive.rpartition(b"orc.nonce=")[2].split()[0].decode()
            _write(directory / "outer-evidence", nonce, self.outer)
        _write(directory / "evidence", inner, self.said)
        (directory / "console").write_text(self.console)


def _write(path: Path, nonce: str, records: Sequence[str]) -> None:
    path.write_text("".join(f"{nonce} {record}\n" for record in records))


def fills(job: Job) -> Exit:
    """Act as every command that machines need files of."""
    if "-o" in job.argv:
        Path(job.argv[job.argv.index("-o") + 1]).write_bytes(b"program")
        return Exit(0)
    out = Path(job.argv[4])
    (out / "vmlinuz").write_bytes(b"outer kernel" + bytes(0x400))
    (out / "root").mkdir()
    (out / "modules").mkdir()
    return Exit(0)


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's cache out of it, and the waits short."""
    monkeypatch.setenv("ORC_HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(machine, "BEAT_S", 0.1)


def booted(
    tmp_path: Path, guest: Guest, platform: Platform = Platform.NATIVE
) -> BootResult:
    """Boot ``guest`` with a short deadline."""
    (tmp_path / "bzImage").write_bytes(b"our kernel")
    engine = ScriptedEngine(fills, running=guest.start)
    kernel = Kernel(tmp_path / "bzImage", tmp_path / "vmlinux")
    config = MachineConfig(timeout_s=0.7, host_kvm=False)
    return boot(Toolbox(engine, "image"), kernel, platform, config)


def test_good_boot(tmp_path: Path) -> None:
    """Evidence and QEMU's word make a boot, with its versions and counts."""
    result = booted(tmp_path, Guest((*SAID, "done 3"), "console\n"))
    assert result.status is Status.BOOTED
    assert result.versions == {"qemu": "10.0.13", "linux": "6.12.1"}
    assert result.counts == {"traps": 3, "records": 4}
    assert result.console == "console\n"
    assert result.facts["accel"] == "tcg"
    assert result.command[0] == "qemu-system-x86_64"
    assert findings(result) == ()


@pytest.mark.parametrize(
    ("guest", "status", "message"),
    [
        (Guest(SAID, "Kernel panic - not syncing: x\n"), Status.PANICKED, "syncing: x"),
        (Guest(SAID), Status.PANICKED, "reset without a word"),
        (Guest((*SAID, "done 99")), Status.PANICKED, "reset without a word"),
        (Guest(SAID, hangs=True, powers_off=False), Status.HUNG, "deadline of 1.4 s"),
        (Guest(SAID, exit=Exit(134), powers_off=False), Status.LOST, "134 (qemu: a"),
    ],
)
def test_bad_ends(tmp_path: Path, guest: Guest, status: Status, message: str) -> None:
    """Panic, silent reset, hang and lost machine are told apart."""
    result = booted(tmp_path, guest)
    assert result.status is status
    assert message in result.message


def test_a_lost_machine_is_tried_once_more(tmp_path: Path) -> None:
    """A fresh machine gives the verdict; what became of the first is kept."""
    lost = Guest(SAID, exit=Exit(134), powers_off=False)
    guests = iter([lost, Guest((*SAID, "done 3"))])
    (tmp_path / "bzImage").write_bytes(b"our kernel")
    engine = ScriptedEngine(fills, running=lambda job: next(guests).start(job))
    kernel = Kernel(tmp_path / "bzImage", tmp_path / "vmlinux")
    result = boot(
        Toolbox(engine, "image"), kernel, Platform.NATIVE, MachineConfig(timeout_s=0.7)
    )
    assert result.status is Status.BOOTED
    assert "134 (qemu: a" in result.facts["lost before"]


@pytest.mark.parametrize(
    ("then", "status"),
    [
        (Guest((*SAID, "done 3")), Status.BOOTED),
        (Guest(SAID, hangs=True, powers_off=False), Status.HUNG),
    ],
)
def test_a_slow_machine_is_no_hang(tmp_path: Path, then: Guest, status: Status) -> None:
    """A kernel that is not through gets twice the time once; a hang hangs again."""
    guests = iter([Guest(SAID, hangs=True, powers_off=False), then])
    (tmp_path / "bzImage").write_bytes(b"our kernel")
    engine = ScriptedEngine(fills, running=lambda job: next(guests).start(job))
    kernel = Kernel(tmp_path / "bzImage", tmp_path / "vmlinux")
    config = MachineConfig(timeout_s=0.3)
    result = boot(Toolbox(engine, "image"), kernel, Platform.NATIVE, config)
    assert result.status is status
    assert result.deadline_s == 0.6
    assert "deadline of 0.3 s" in result.facts["hung before"]


OUTER = ("hello", "part kvm 1 1", "mark running")


@pytest.mark.parametrize(
    ("outer", "said", "status", "message"),
    [
        ((*OUTER, "fact qemu.exit 0", "done 4"), (*SAID, "done 3"), "booted", "4 rec"),
        ((*OUTER, "fact qemu.exit 0", "done 4"), SAID, "panicked", "without a word"),
        ((*OUTER, "fact qemu.exit 1", "done 4"), SAID, "lost", "ended with 1"),
        ((*OUTER, "fact qemu.signal 6", "done 4"), SAID, "lost", "ended with -1"),
        (OUTER, SAID, "lost", "not by the guest"),
    ],
)
def test_nested_ends(
    tmp_path: Path,
    outer: Sequence[str],
    said: Sequence[str],
    status: str,
    message: str,
) -> None:
    """How the inner QEMU ended counts; an outer machine that dies is lost."""
    result = booted(tmp_path, Guest(said, outer=outer), Platform.KVM)
    assert result.status == status
    assert message in result.message


def test_nested_guest_that_cannot_power_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A nested guest that said all and stays on is switched off, with its host."""
    monkeypatch.setattr(machine, "QUIT_S", 0.1)
    guest = Guest((*SAID, "done 3"), outer=OUTER, hangs=True, powers_off=False)
    result = booted(tmp_path, guest, Platform.KVM)
    assert result.status is Status.BOOTED
    assert result.facts["poweroff"].startswith("no: ")


def test_hang_of_nested_host_is_not_the_kernels(tmp_path: Path) -> None:
    """If the host's heartbeat stops with its guest, the machine is lost."""
    guest = Guest(SAID, outer=OUTER, hangs=True, powers_off=False)
    assert booted(tmp_path, guest, Platform.KVM).status is Status.LOST


def test_platform_without_its_proof(tmp_path: Path) -> None:
    """A KVM guest whose kernel did not take PVUNLOCK is a finding."""
    outer = (*OUTER, "fact qemu.exit 0", "done 4")
    guest = Guest((*SAID, "done 3"), "Hypervisor detected: KVM\n", outer)
    (found,) = findings(booted(tmp_path, guest, Platform.KVM))
    assert found.rule == "boot/platform"
    assert "PVUNLOCK was not selected" in found.message


def test_vsmp_device_is_played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On vSMP the device model runs first; what it saw is in the facts."""
    served = vsmp_device.Served(reads=53, emulated=6, control=0x003)
    monkeypatch.setattr(booting, "load", lambda path: f"program of {path.name}")
    monkeypatch.setattr(vsmp_device, "serve", lambda *_: served)
    stub = FakeStub(registers=bytes(236))
    log = "vSMP CTL: capabilities:0x00000105\nvSMP CTL: control set to:0x00000003\n"
    guest = Guest((*SAID, "done 3"), log, stub=stub, powers_off=False)
    result = booted(tmp_path, guest, Platform.VSMP)
    assert result.facts["vsmp.reads"] == "53"
    assert stub.seen[-1] == "c"
    assert findings(replace(result, status=Status.BOOTED)) == ()
    unwritten = {**result.facts, "vsmp.control": result.facts["vsmp.control.reset"]}
    (found,) = findings(replace(result, status=Status.BOOTED, facts=unwritten))
    assert "never wrote vSMP's control register" in found.message


def test_a_look_is_taken_where_init_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guest is stopped there, looked at, and goes on."""
    linked = Running(functions={"free_initmem": 0x40}).linked()
    monkeypatch.setattr(booting, "load", lambda path: linked)
    stub = FakeStub(registers=bytes(236))
    guest = Guest((*SAID, "done 3"), stub=stub, powers_off=False)
    (tmp_path / "bzImage").write_bytes(b"our kernel")
    engine = ScriptedEngine(fills, running=guest.start)
    kernel = Kernel(tmp_path / "bzImage", tmp_path / "vmlinux")
    toolbox, config = Toolbox(engine, "image"), MachineConfig(timeout_s=0.7)
    seen: list[object] = []

    def look(on: Machine, gdb: Gdb, kernel_of_it: object) -> None:
        seen.append((kernel_of_it, gdb.breakpoints, on.alive()))
        stub.seen.append("looked")

    with session(toolbox, kernel, Platform.NATIVE, config) as running:
        running.start(look)
        assert seen == [(linked, frozenset(), True)]
        assert running.end().evidence.complete
    asked = [packet[:2] for packet in stub.seen if packet[:1] in "Zzcl"]
    assert asked == ["Z0", "c", "z0", "lo", "c"]


def test_a_kernel_that_has_moved_is_looked_at_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Symbols and values are those of the address that it chose."""
    slide, text = 0x1A200000, 0xFFFFFFFF81000000
    linked = Running({0: bytes(8)}, functions={"free_initmem": 0x40}).linked()
    cells = struct.pack("<7I", 0, 0, 0, text + 4 & 0xFFFFFFFF, 0, text & 0xFFFFFFFF, 1)
    payload = np.frombuffer(b"\x7fELF" + bytes(4) + cells[4:-4], np.uint8)
    monkeypatch.setattr(booting, "load", lambda path: linked)
    monkeypatch.setattr(kaslr, "find_slide", lambda *_: slide)
    packed = bzimage.BzImage(payload, "6.12", "gzip")
    monkeypatch.setattr(bzimage, "parse_bzimage", lambda *_: packed)
    stub = FakeStub(registers=bytes(236))
    guest = Guest((*SAID, "done 3"), stub=stub, powers_off=False)
    (tmp_path / "bzImage").write_bytes(b"our kernel")
    engine = ScriptedEngine(fills, running=guest.start)
    kernel = Kernel(tmp_path / "bzImage", tmp_path / "vmlinux")
    config = MachineConfig(timeout_s=0.7, kaslr=True)
    seen: list[Program] = []
    with session(Toolbox(engine, "image"), kernel, Platform.NATIVE, config) as running:
        running.start(lambda on, gdb, there: seen.append(there))
        assert running.end().facts["kaslr"] == f"{slide:#x}"
    (there,) = seen
    assert there.symbols.find("free_initmem") == text + slide + 0x40
    assert there.read(text + slide, 8).tobytes() == struct.pack(
        "<II", slide, 2**32 - slide
    )
    assert f"Z0,{text + slide + 0x40:x},1" in stub.seen


def test_kernel_that_dies_while_the_device_is_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that panics early on vSMP panicked, as it would natively."""

    def dies(*_: object) -> vsmp_device.Served:
        raise LostGuest("the machine ended")

    monkeypatch.setattr(booting, "load", lambda path: path)
    monkeypatch.setattr(vsmp_device, "serve", dies)
    stub = FakeStub(registers=bytes(236))
    stub.seen.append("c")
    guest = Guest((), "Kernel panic - not syncing: VFS\n", stub=stub)
    result = booted(tmp_path, guest, Platform.VSMP)
    assert result.status is Status.PANICKED
    assert result.message.endswith("VFS")


def test_kernel_of_a_build(tmp_path: Path) -> None:
    """An entry of the store has what a boot needs."""
    manifest = Manifest("k", "n", "native", "t", "6", {}, ("a.ko",), (), {}, 1.0, 1)
    kernel = kernel_of(Artifacts(tmp_path, manifest))
    assert kernel.bzimage == tmp_path / "bzImage"
    assert kernel.modules == (tmp_path / "modules" / "a.ko",)


def test_no_kernel(tmp_path: Path) -> None:
    """A bzImage that is not there is the user's mistake, told before any machine."""
    kernel = Kernel(tmp_path / "none", tmp_path / "vmlinux")
    with pytest.raises(UserError, match="none does not exist, expected a bzImage"):
        boot(Toolbox(ScriptedEngine(), "image"), kernel, Platform.NATIVE)
