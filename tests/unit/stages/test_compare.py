"""What cannot be compared is neither a finding nor the machine's fault."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from harness.boot.boot import Kernel
from harness.boot.compare import CompareResult
from harness.boot.initramfs import Toolbox
from harness.boot.machine import MachineConfig
from harness.errors import InfraError
from harness.finding import Finding, Location
from harness.progress import silent
from harness.result import Status
from harness.stages import boot, compare
from harness.stages.subject import Subject
from harness.variant import Platform
from tests.unit.stages.test_shadow import BOOTED


def no_image() -> Toolbox:
    raise InfraError("the image machine cannot be made", hint="free space")


SUBJECT = Subject(
    "xen",
    Platform.XEN,
    Kernel(Path("/b/bzImage"), Path("/b/vmlinux")),
    no_image,
    MachineConfig(),
)


def test_a_kernel_that_did_not_boot_is_not_compared() -> None:
    """Its boot has said what is wrong; SKIP, not ERROR, so that FAIL decides."""
    result = compare.stage(SUBJECT, 0, None, silent)

    assert result.status is Status.SKIP


def test_a_missing_machine_image_is_an_error_of_the_boot_alone() -> None:
    """The stage carries the image's error; the other stages' results are kept."""
    result, booted = boot.stage(SUBJECT, silent)

    assert (result.status, result.exit_code) == (Status.ERROR, 3)
    assert result.hint == "free space"
    assert booted is None


def test_the_command_boots_it_again() -> None:
    """Findings say how to see them once more."""
    other = MachineConfig(append="nopti quiet", xen_args="smt=0", cpu="Opteron_G5")
    asked = replace(SUBJECT, config=other)

    assert SUBJECT.command == "orc-harness boot /b --platform xen"
    more = "--xen-args smt=0 --cpu Opteron_G5 --append 'nopti quiet'"
    assert asked.command == f"{SUBJECT.command} {more}"


def test_what_a_guest_printed_is_told_with_what_it_was_asked() -> None:
    """Neither hides the other's findings, counts or reason."""
    finding = Finding("runtime/unwind-differs", Location("vmlinux", "f", 0), "other")
    asked = CompareResult({"points": 500}, (), ("asked",), "", slide=0x200000)
    printed = CompareResult({"proc_traces": 20}, (finding,), (), "too few")
    both = compare.together(asked, printed)
    assert both.counts == {"points": 500, "proc_traces": 20}
    assert (both.findings, both.notes) == ((finding,), ("asked",))
    assert (both.reason, both.slide) == ("too few", 0x200000)


def test_a_guest_without_a_verdict_tells_its_last_words() -> None:
    """Where it died is in its console; a verdict needs none of that."""
    lost = CompareResult({}, (), ("asked",), "the guest ended")
    finding = Finding("runtime/unwind-differs", Location("vmlinux", "f", 0), "other")
    stopped = replace(lost, findings=(finding,), reason="stopped at the first finding")

    def words() -> tuple[str, ...]:
        return ("Oops", "Kernel panic")

    told = compare.with_last_words(lost, words)
    assert told.notes == ("asked", "console: Oops", "console: Kernel panic")
    for judged in (stopped, replace(lost, reason="")):
        assert compare.with_last_words(judged, words) == judged


@pytest.mark.parametrize(("blind", "tries"), [(True, 1), (False, 2)])
def test_a_control_that_goes_unseen_is_no_reason_to_try_again(
    monkeypatch: pytest.MonkeyPatch, blind: bool, tries: int
) -> None:
    """A nested guest gets a second try when it was lost, not when we saw nothing."""
    looks: list[object] = []
    without = CompareResult({}, (), (), "no verdict", blind=blind)

    def probed(*_: object) -> CompareResult:
        looks.append(without)
        return without

    monkeypatch.setattr(compare, "_probed", probed)
    monkeypatch.setattr(compare, "load", lambda _: None)
    monkeypatch.setattr(compare, "check_traces", lambda *_: replace(without, reason=""))
    nested = replace(SUBJECT, platform=Platform.KVM)

    result = compare.stage(nested, 0, BOOTED, silent)

    assert (len(looks), result.status) == (tries, Status.ERROR)
