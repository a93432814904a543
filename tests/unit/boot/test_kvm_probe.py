"""The probe of the host's KVM: a guest that must make progress."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.boot import kvm_probe
from harness.boot.initramfs import Toolbox
from harness.container.job import Exit, Job
from harness.errors import InfraError
from tests.builders.machines import ScriptedEngine


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's cache out of it."""
    monkeypatch.setenv("ORC_HARNESS_CACHE", str(tmp_path / "cache"))


def probe(said: bytes, exit: Exit, text: str = "") -> str:
    """Return the probe's verdict on a QEMU that did so."""

    def qemu(job: Job) -> Exit:
        if job.argv[0] == "gcc":
            Path(job.argv[job.argv.index("-o") + 1]).write_bytes(b"firmware")
            return Exit(0)
        assert job.devices == ("/dev/null",)
        directory = Path(job.mounts[0].source)
        assert (directory / "rom").read_bytes() == b"firmware"
        (directory / "said").write_bytes(said)
        if job.on_text is not None:
            job.on_text(text)
        return exit

    toolbox = Toolbox(ScriptedEngine(qemu), "image")
    return kvm_probe.reason_against(toolbox, "qemu", device="/dev/null")


def test_both_words_are_needed() -> None:
    """Only a guest that ran to its end speaks for KVM."""
    assert probe(b"ok", Exit(1)) == ""
    assert probe(b"o", Exit(1)) == "/dev/null: qemu ended with 1"


def test_guest_without_progress() -> None:
    """A device that opens, and a guest that stands still: the deadline tells."""
    reason = probe(b"o", Exit(137, timed_out=True))
    assert reason.startswith("/dev/null opens, but a guest ")
    assert reason.endswith("not through after 4 s")


def test_qemu_says_why() -> None:
    """QEMU's own words are the reason, on one line."""
    assert probe(b"", Exit(1), "Permission\ndenied\n") == (
        "/dev/null: Permission; denied"
    )


def test_no_device() -> None:
    """Without the node nothing is started."""
    engine = ScriptedEngine()
    reason = kvm_probe.reason_against(
        Toolbox(engine, "image"), "qemu", device="/dev/none"
    )
    assert reason == "no /dev/none"
    assert not engine.jobs


def test_engine_that_refuses_the_device() -> None:
    """A container that does not start with the device is a reason, not an error."""

    def refuses(job: Job) -> Exit:
        if job.argv[0] == "gcc":
            Path(job.argv[job.argv.index("-o") + 1]).write_bytes(b"firmware")
            return Exit(0)
        raise InfraError("operation not permitted")

    toolbox = Toolbox(ScriptedEngine(refuses), "image")
    reason = kvm_probe.reason_against(toolbox, "qemu", device="/dev/null")
    assert reason == "/dev/null: operation not permitted"


@pytest.mark.parametrize("accel", ["kvm", "tcg"])
def test_command_line(accel: str) -> None:
    """The tiny guest has no firmware but ours, and two ports."""
    text = " ".join(kvm_probe.argv("qemu", "/m", accel))
    assert f"-accel {accel} -m 16 -bios /m/rom" in text
    assert "isa-debug-exit,iobase=0xf4" in text


@pytest.mark.parametrize(
    ("mode", "uid", "runtime", "closed"),
    [
        (0o660, 0, "docker", False),
        (0o666, 0, "docker", False),
        (0o600, 0, "docker", True),
        (0o600, 0, "host", False),
        (0o600, 1000, "docker", False),
    ],
)
def test_user_that_can_open_the_device(
    mode: int,
    uid: int,
    runtime: str,
    closed: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only a node that its group cannot open needs its owner, and only root can be."""
    node = tmp_path / "kvm"
    node.touch()
    node.chmod(mode)
    monkeypatch.setattr("os.geteuid", lambda: uid)
    owner = f"{node.stat().st_uid}:{node.stat().st_gid}"
    user = kvm_probe.device_user(ScriptedEngine(runtime=runtime), str(node))
    assert user == (owner if closed else None)
