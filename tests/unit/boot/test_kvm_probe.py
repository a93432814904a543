"""The probe of the host's KVM: a guest that must make progress."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.boot import kvm_probe
from harness.boot.initramfs import Toolbox
from harness.container.job import Exit, Job
from harness.errors import InfraError
from tests.builders.machines import ScriptedEngine


def test_firmware_is_entered_at_the_reset_vector() -> None:
    """At f000:fff0 there is a jump to the code, which ends in a halt."""
    rom = kvm_probe.rom()
    assert len(rom) == 64 << 10
    assert rom[0xFFF0] == 0xE9
    target = (0xFFF3 + int.from_bytes(rom[0xFFF1:0xFFF3], "little")) & 0xFFFF
    code = rom[target : target + 64].rstrip(b"\0")
    assert code.startswith(b"\xb0o\xe6\xe9")
    assert code.endswith(b"\xf4\xeb\xfd")


def probe(said: bytes, exit: Exit, text: str = "") -> str:
    """Return the probe's verdict on a QEMU that did so."""

    def qemu(job: Job) -> Exit:
        assert job.devices == ("/dev/null",)
        directory = Path(job.mounts[0].source)
        assert (directory / "rom").stat().st_size == kvm_probe.ROM_BYTES
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
    assert reason == "/dev/null opens, but a guest makes no progress in 10 s"


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
