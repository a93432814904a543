"""How a boot is judged: booted, panicked, hung and lost never mix."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from harness.boot.evidence import Evidence, Part
from harness.boot.outcome import (
    BootResult,
    Ending,
    Rule,
    Status,
    findings,
    judge,
    logged,
    tail,
)
from harness.errors import InfraError
from harness.variant import Platform

WHOLE = Evidence(hello=True, complete=True, records=9, parts=(Part("traps", 3, 3),))
STARTED = replace(WHOLE, complete=False, records=2)
OFF = Ending(False, 0, "guest-shutdown")
RESET = Ending(False, 0, "guest-reset")
LATE = Ending(True, 137)
CRASH = Ending(False, 134, "", "qemu: assertion failed")
PANIC = "boot\nKernel panic - not syncing: sysrq triggered crash\nCPU: 0\n"


@pytest.mark.parametrize(
    ("ending", "evidence", "console", "status", "why"),
    [
        (OFF, WHOLE, "", Status.BOOTED, "9 records"),
        (RESET, WHOLE, "", Status.BOOTED, "9 records"),
        (Ending(False, 0, "host-qmp-quit"), WHOLE, "", Status.BOOTED, "9 records"),
        (RESET, STARTED, PANIC, Status.PANICKED, "sysrq triggered crash"),
        (LATE, STARTED, PANIC, Status.PANICKED, "sysrq triggered crash"),
        (OFF, STARTED, "", Status.PANICKED, "as far as traps (record 2)"),
        (RESET, Evidence(), "", Status.PANICKED, "before userspace ran"),
        (LATE, STARTED, "", Status.HUNG, "deadline of 7 s"),
        (LATE, WHOLE, "", Status.HUNG, "deadline of 7 s"),
        (LATE, Evidence(), "", Status.HUNG, "before userspace ran"),
        (CRASH, STARTED, "", Status.LOST, "134 (qemu: assertion failed)"),
        (CRASH, WHOLE, "", Status.LOST, "not by the guest"),
        (Ending(False, 0, "host-signal"), STARTED, "", Status.LOST, "no word of it"),
    ],
)
def test_judge(
    ending: Ending, evidence: Evidence, console: str, status: Status, why: str
) -> None:
    """Each way to end has one status, and a sentence with what was seen."""
    seen, message = judge(ending, evidence, console, 7.0)
    assert seen == status
    assert why in message


def result(status: Status = Status.BOOTED, **more: object) -> BootResult:
    """Return a boot on Xen that went well, unless told."""
    good = BootResult(
        status, Platform.XEN, "why it ended", WHOLE, "line\nlast line\n", 1.0, 7.0
    )
    return replace(good, **more)  # type: ignore[arg-type]


def test_good_boot_has_no_finding() -> None:
    """A whole workload and every proof leave nothing to say."""
    assert findings(result(), (logged("last line", "no console"),)) == ()


@pytest.mark.parametrize(
    ("status", "rule"), [(Status.PANICKED, "boot/panic"), (Status.HUNG, "boot/hang")]
)
def test_dead_kernel_is_a_finding(status: Status, rule: str) -> None:
    """Panic and hang are the kernel's, and show the console's tail."""
    (found,) = findings(result(status), ())
    assert found.rule == rule
    assert found.message == "why it ended"
    assert found.window == ("line", "last line")
    assert found.platforms == ("xen",)


def test_lost_machine_is_our_error() -> None:
    """A lost machine is no verdict on the kernel; the tail is in the message."""
    with pytest.raises(InfraError, match="lost the xen machine: why") as caught:
        findings(result(Status.LOST), ())
    assert "last line" in caught.value.message


def test_part_that_fell_short() -> None:
    """What the kernel did not do as asked is a finding."""
    short = replace(WHOLE, parts=(Part("faults", 3, 4),))
    (found,) = findings(result(evidence=short), ())
    assert found.rule == "boot/workload"
    assert "faults: the kernel did 3 of 4" in found.message


@pytest.mark.parametrize(("done", "rules"), [(4, []), (0, ["boot/workload"])])
def test_modules_may_refuse_but_not_all(done: int, rules: list[str]) -> None:
    """Test modules refuse to load by design; no module at all is a finding."""
    evidence = replace(WHOLE, parts=(Part("modules", done, 5),))
    assert [f.rule for f in findings(result(evidence=evidence), ())] == rules


def test_missing_proof_of_the_platform() -> None:
    """A boot that was not on its platform fails, however well it went."""
    (found,) = findings(result(), (logged("Xen PV", "not a Xen guest"),))
    assert found.rule == "boot/platform"
    assert "not a Xen guest" in found.message


def test_log_of_userspace_goes_before_the_console() -> None:
    """The console can lose lines; the log that userspace read cannot."""
    evidence = replace(WHOLE, texts={"log-boot": "on Xen PV\n"})
    assert logged("Xen PV", "x")(result(evidence=evidence)) == ""


def test_kernel_that_warned() -> None:
    """A taint for a warning is a finding with the kernel's own words."""
    log = "fine\nWARNING: CPU: 0 at x.c:1\nCall Trace:\n"
    evidence = replace(WHOLE, facts={"tainted": "512"}, texts={"log-end": log})
    (found,) = findings(result(evidence=evidence), ())
    assert found.rule == "boot/warning"
    assert "it warned" in found.message
    assert found.window == ("WARNING: CPU: 0 at x.c:1", "Call Trace:")


@pytest.mark.parametrize("taint", ["0", "4096", "not a number", "8192"])
def test_other_taints_are_no_warning(taint: str) -> None:
    """Out-of-tree modules and the like taint a kernel that is well."""
    evidence = replace(WHOLE, facts={"tainted": taint})
    assert findings(result(evidence=evidence), ()) == ()


def test_tail_is_printable_and_short() -> None:
    """The tail has no control characters, and at most 100 columns."""
    text = "first\n" * 50 + "\x1b[2Jbell\x07\r\n" + "w" * 200
    lines = tail(text)
    assert len(lines) == 40
    assert lines[-2:] == ("[2Jbell", "w" * 100)


def test_counts_are_what_the_guest_did() -> None:
    """The counts of a boot are its parts and records."""
    assert result().counts == {"traps": 3, "records": 9}


def test_every_rule_is_documented() -> None:
    """docs/findings.md has one section per rule, and none for a rule that is gone."""
    text = (Path(__file__).parents[3] / "docs" / "findings.md").read_text()
    sections = set(re.findall(r"^## `(boot/[^`]+)`", text, re.MULTILINE))
    assert sections == {rule.value for rule in Rule}
