"""A machine: its command line, its directory, its wait for the end."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from harness.boot import machine
from harness.boot.initramfs import Toolbox
from harness.boot.machine import Boards, Machine, Plan, qemu_argv, xen_version
from harness.container.job import Exit, Job
from harness.errors import InfraError
from tests.builders.machines import Process, ScriptedEngine, qmp_server

BOARD = Boards("/m/bzImage", "/m/initrd", "console=ttyS0", "max", 256)
PLAN = Plan(("qemu",), {"initrd": b"cpio"}, "n", 256, 5.0, nmi=True)


def test_command_line() -> None:
    """The machine is headless and paused; every file and socket is in one place."""
    text = " ".join(qemu_argv("qemu", BOARD, "/m"))
    assert text == (
        "qemu -nodefaults -no-user-config -display none -accel tcg -cpu max -m 256 "
        "-smp 1 -kernel /m/bzImage -initrd /m/initrd -append console=ttyS0 "
        "-no-reboot -S -serial file:/m/console -qmp unix:/m/qmp,server=on,wait=off "
        "-gdb unix:/m/gdb,server=on,wait=off "
        "-chardev file,id=evidence,path=/m/evidence "
        "-device isa-debugcon,iobase=0xe9,chardev=evidence"
    )


def test_each_port_has_its_file() -> None:
    """Every further port is a device and a file of its name."""
    board = replace(BOARD, ports={"a": 0xE9, "b": 0xEA})
    words = qemu_argv("qemu", board, "/m")
    assert "isa-debugcon,iobase=0xea,chardev=b" in words
    assert "file,id=b,path=/m/b" in words


@contextlib.contextmanager
def started(
    tmp_path: Path, plan: Plan = PLAN, **answers: tuple[object, ...]
) -> Iterator[tuple[Machine, Process, list[str]]]:
    """Yield a machine whose QEMU is a process of ours and a socket."""
    tmp_path.mkdir(exist_ok=True)
    process = Process()
    engine = ScriptedEngine(running=lambda job: process)
    with (
        qmp_server(tmp_path / "qmp", answers) as seen,
        machine.start(Toolbox(engine, "image"), plan, tmp_path) as running,
    ):
        yield running, process, seen


def say(tmp_path: Path, text: str) -> None:
    """Add to the guest's evidence."""
    with (tmp_path / "evidence").open("a") as file:
        file.write(text)


def test_files_are_placed(tmp_path: Path) -> None:
    """The plan's files are in the machine's directory before QEMU starts."""
    (tmp_path / "k").write_bytes(b"kernel")
    plan = replace(PLAN, files={"initrd": b"cpio", "bzImage": tmp_path / "k"})
    with started(tmp_path, plan) as (running, _, _):
        assert running.read("initrd") == b"cpio"
        assert running.read("bzImage") == b"kernel"
        assert running.read("console") == b""
        assert running.gdb_socket == tmp_path / "gdb"


def test_end_by_the_guest(tmp_path: Path) -> None:
    """QEMU's reason and exit status are how the boot ended."""
    event = {"event": "SHUTDOWN", "data": {"reason": "guest-shutdown"}}
    with started(tmp_path, cont=({"return": {}}, event)) as (running, process, _):
        running.cont()
        threading.Timer(0.1, process.ended.set).start()
        ending = running.wait()
    assert (ending.timed_out, ending.reason) == (False, "guest-shutdown")
    assert ending.by_guest


def test_deadline_kills(tmp_path: Path) -> None:
    """A machine that does not end is killed at its deadline."""
    with started(tmp_path, replace(PLAN, timeout_s=0.2)) as (running, process, _):
        ending = running.wait()
    assert ending.timed_out
    assert process.killed


def test_nmi_at_its_mark_and_once(tmp_path: Path) -> None:
    """The host injects the NMI that the guest waits for, once."""
    with started(tmp_path, replace(PLAN, timeout_s=0.3)) as (running, _, seen):
        say(tmp_path, "n hello\nn mark nmi\n")
        running.wait()
    assert seen.count("inject-nmi") == 1


def test_guest_that_cannot_power_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When all is said and the machine stays on, it is switched off."""
    monkeypatch.setattr(machine, "QUIT_S", 0.1)
    with started(tmp_path, replace(PLAN, timeout_s=1.0)) as (running, process, seen):
        say(tmp_path, "n hello\nn done 1\n")
        threading.Timer(0.5, process.ended.set).start()
        ending = running.wait()
    assert "quit" in seen
    assert not ending.timed_out


def test_wait_for_mark(tmp_path: Path) -> None:
    """The wait ends at the mark, or with the console's tail at its deadline."""
    with started(tmp_path) as (running, process, _):
        (tmp_path / "console").write_bytes(b"booting\r\n")
        with pytest.raises(InfraError, match=r"took over 0.1 s before its mark 'hold'"):
            running.wait_for_mark("hold", 0.1)
        say(tmp_path, "n hello\nn mark hold\n")
        running.wait_for_mark("hold", 0.1)
        process.ended.set()
        with pytest.raises(InfraError, match=r"ended before its mark 'x'.*\nbooting"):
            running.wait_for_mark("x", 1.0)


def test_nested_host_that_died_with_its_guest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the deadline of a nested guest, its host's heartbeat is listened for."""
    monkeypatch.setattr(machine, "BEAT_S", 0.1)
    plan = replace(PLAN, timeout_s=0.1, outer_nonce="o")
    with started(tmp_path, plan) as (running, _, _):
        (tmp_path / "outer-evidence").write_text("o hello\n")
        assert not running.wait().host_alive


def test_halted_nested_host_is_poked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host whose heartbeat stalls gets an interrupt; one that beats gets none."""
    monkeypatch.setattr(machine, "STALL_S", 0.1)
    monkeypatch.setattr(machine, "BEAT_S", 0.01)
    plan = replace(PLAN, timeout_s=0.35, outer_nonce="o")
    with started(tmp_path, plan) as (running, _, seen):
        (tmp_path / "outer-evidence").write_text("o hello\n")
        running.wait()
        assert "send-key" not in seen
    with started(tmp_path / "2", plan) as (running, _, seen):
        (tmp_path / "2" / "outer-evidence").write_text("o hello\no mark running\n")
        running.wait()
        assert 2 <= seen.count("send-key") == running.pokes


def test_qemu_that_does_not_start(tmp_path: Path) -> None:
    """What QEMU said is in the error."""

    def dies(job: Job) -> Process:
        process = Process(Exit(1), text="qemu: could not load kernel\n")
        process.ended.set()
        return process

    toolbox = Toolbox(ScriptedEngine(running=dies), "image")
    with (
        pytest.raises(InfraError, match=r"did not start: qemu: could not load kernel"),
        machine.start(toolbox, PLAN, tmp_path),
    ):
        pass


def test_directory_with_room_for_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A temporary directory whose path no socket can have is an error at once."""
    with machine.scratch() as directory:
        assert directory.is_dir()
    assert not directory.exists()
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with pytest.raises(InfraError, match="too long a path"), machine.scratch():
        pass


def test_xen_version() -> None:
    """The banner tells Xen's version; without one there is none."""
    assert xen_version("(XEN) Xen version 4.20.4-pre (Debian) x86_64") == "4.20.4-pre"
    assert xen_version("Linux version 6.12") == ""
