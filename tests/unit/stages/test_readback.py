"""What cannot be read back is neither a finding nor a pass."""

from __future__ import annotations

import types
from pathlib import Path
from typing import cast

import pytest

from harness.boot.boot import Kernel
from harness.boot.gdb import Gdb
from harness.boot.initramfs import Toolbox
from harness.boot.machine import Machine, MachineConfig
from harness.boot.outcome import BootResult
from harness.boot.readback.difference import Difference
from harness.boot.readback.taken import Taken
from harness.boot.readback.verdict import Verdict
from harness.boot.wire import LostGuest
from harness.errors import InfraError
from harness.finding import Finding, Location
from harness.progress import silent
from harness.result import Status
from harness.stages import readback
from harness.stages.subject import Subject
from harness.text.patch.edits import Step
from harness.variant import Platform
from tests.builders.memory import FakeMemory
from tests.builders.running import Kernel as Running

BOOTED = cast(BootResult, types.SimpleNamespace())


def no_image() -> Toolbox:
    raise InfraError("the image machine cannot be made", hint="free space")


SUBJECT = Subject(
    "xen",
    Platform.XEN,
    Kernel(Path("/b/bzImage"), Path("/b/vmlinux")),
    no_image,
    MachineConfig(),
)
PLAN = types.SimpleNamespace(outer_nonce="")
TAKEN = cast(Taken, object())


def test_a_kernel_that_did_not_boot_is_not_read() -> None:
    """Its boot has said what is wrong; SKIP, not ERROR, so that FAIL decides."""
    result = readback.stage(SUBJECT, readback.Looker(0), None, silent)
    assert result.status is Status.SKIP


def test_a_nested_guest_is_read_through_its_stub() -> None:
    """The outer QEMU, whose memory its host is in, is not asked."""
    linked = Running({0: b"\x90"}).linked()
    memory = FakeMemory(linked)
    nested = types.SimpleNamespace(outer_nonce="42")
    machine = types.SimpleNamespace(plan=nested)
    gdb = types.SimpleNamespace(read=memory.read, write=memory.write)
    looker = readback.Looker(0)
    looker.look(cast(Machine, machine), cast(Gdb, gdb), linked)
    assert looker.taken.mended


def test_a_guest_that_was_not_stopped_is_no_verdict() -> None:
    """An ERROR of ours, never a PASS."""
    result = readback.stage(SUBJECT, readback.Looker(0), BOOTED, silent)
    assert (result.status, result.exit_code) == (Status.ERROR, 3)
    assert "not seen to reach the end of its init" in result.reason
    assert "--timeout" in result.hint


def test_what_goes_wrong_in_the_look_is_told_by_the_stage(tmp_path: Path) -> None:
    """The boot that it was part of goes on."""

    def refuse(name: str, **_: object) -> None:
        raise InfraError(f"qmp {name} failed: disk full")

    looker = readback.Looker(0)
    machine = types.SimpleNamespace(
        qmp=types.SimpleNamespace(command=refuse), inside="/machine", plan=PLAN
    )
    looker.look(cast(Machine, machine), cast(Gdb, None), Running().linked())
    result = readback.stage(SUBJECT, looker, BOOTED, silent)
    assert (result.status, result.exit_code) == (Status.ERROR, 3)
    assert result.reason == "qmp memsave failed: disk full"


def test_a_missing_machine_image_is_an_error() -> None:
    """As it is for every stage that boots."""
    result = readback.stage_alone(SUBJECT, 0, silent)
    assert (result.status, result.hint) == (Status.ERROR, "free space")


@pytest.mark.parametrize(
    ("found", "reason", "status"),
    [(False, "", Status.PASS), (True, "", Status.FAIL), (True, "blind", Status.ERROR)],
)
def test_a_verdict_is_a_stages_result(found: bool, reason: str, status: Status) -> None:
    """Findings fail it; without a control that was seen there is no verdict."""
    finding = Finding("readback/byte", Location("vmlinux", "f", 0), "other", cause="f")
    difference = Difference(10, 2, {Step.ALTERNATIVE: 2}, (), {Step.RETURN: {"x": 3}})
    verdict = Verdict(difference, (finding,) * found, reason, 1.0)
    result = readback.result_of(verdict, "xen", "orc-harness readback /b")
    assert result.status is status
    assert result.counts["readback alternative"] == 2
    assert result.counts["text_control"] == (not reason)
    assert result.counts["won return: x"] == 3
    assert [one.reproduce for one in result.findings] == [
        "orc-harness readback /b"
    ] * found


def test_a_second_look_waits_for_the_kernels_page_tables() -> None:
    """A guest that is stopped in a user's goes on a little; it is read in the end."""
    linked = Running({0: b"\x90"}).linked()
    refused = [3]
    resumed: list[float] = []
    memory = FakeMemory(linked)

    def save(name: str, **how: object) -> None:
        if refused[0]:
            refused[0] -= 1
            raise InfraError(f"qmp {name} failed: invalid address")
        address = cast(int, how["val"]) + (1 << 64)
        saved.append(memory.read(address, cast(int, how["size"])))

    saved: list[bytes] = []
    machine = types.SimpleNamespace(
        qmp=types.SimpleNamespace(command=save),
        inside="/machine",
        plan=PLAN,
        read=lambda name: saved[-1],
    )
    gdb = types.SimpleNamespace(write=memory.write, run_for=resumed.append)
    looker = readback.Looker(0)
    looker.look_again(cast(Machine, machine), cast(Gdb, gdb), linked)
    assert len(resumed) == 3
    assert looker.later is not None
    assert looker.later.mended


def test_a_guest_that_is_lost_before_the_second_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first look stands, and so does what the guest was stopped for."""

    def lost(*_: object, **__: object) -> None:
        raise LostGuest("the gdbstub is gone")

    linked = Running({0: b"\x90"}).linked()
    looker = readback.Looker(0)
    monkeypatch.setattr(readback, "take", lambda *_, **__: TAKEN)
    looker.look(
        cast(Machine, types.SimpleNamespace(plan=PLAN)), cast(Gdb, None), linked
    )
    monkeypatch.setattr(readback, "take", lost)
    gdb = types.SimpleNamespace(run_for=lost)

    looker.look_again(
        cast(Machine, types.SimpleNamespace(plan=PLAN)), cast(Gdb, gdb), linked
    )

    assert looker.taken is TAKEN
    assert looker.later is None
    assert looker.later_error == "the gdbstub is gone"
