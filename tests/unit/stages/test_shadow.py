"""What the shadow stage makes of a boot under the plugin."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from harness.boot.boot import Kernel
from harness.boot.evidence import parse
from harness.boot.initramfs import Toolbox
from harness.boot.machine import MachineConfig, MissingMachine
from harness.boot.outcome import BootResult
from harness.boot.outcome import Status as BootStatus
from harness.boot.shadow.judge import Seen
from harness.boot.shadow.record import Record
from harness.boot.shadow.shadow import ShadowResult
from harness.coverage import Coverage
from harness.errors import FormatError
from harness.finding import Finding, Location
from harness.progress import silent
from harness.result import Stage, StageResult, Status
from harness.stages import shadow
from harness.stages.covered import Covered
from harness.stages.subject import Subject
from harness.variant import Platform
from tests.builders.machines import ScriptedEngine

SUBJECT = Subject(
    "kvm",
    Platform.KVM,
    Kernel(Path("/b/bzImage"), Path("/b/vmlinux")),
    lambda: Toolbox(ScriptedEngine(), "machine"),
    MachineConfig(),
)
BOOTED = BootResult(
    BootStatus.BOOTED, Platform.KVM, "", parse(b"", "x"), "", seconds=2.5, deadline_s=9
)
NONE = np.zeros(0, dtype=np.uint64)
RECORD = Record(
    {}, (), NONE, NONE, NONE, NONE.view(np.int64), np.zeros((0, 16), np.uint8)
)
CLEAN = ShadowResult({"verified": 7}, (), Seen(NONE, NONE), RECORD, "", 6.0)
COVERED = Covered(Coverage({}), beyond=2, foreign=1)
WRONG = Finding("shadow/cfa", Location("vmlinux", "entry", 4), "not there")


def staged(
    monkeypatch: pytest.MonkeyPatch, result: ShadowResult | Exception
) -> StageResult:
    def boots(*_: object, saved_bp: bool) -> ShadowResult:
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(shadow, "shadow", boots)
    monkeypatch.setattr(shadow, "load", lambda _: None)
    monkeypatch.setattr(shadow, "covered", lambda *_: COVERED)
    monkeypatch.setattr(Subject, "features", lambda *_: None)
    judgement, covers = shadow.stage(SUBJECT, BOOTED, silent)
    sound = isinstance(result, ShadowResult) and not result.reason
    assert covers is (COVERED.coverage if sound else None)
    return judgement


def test_a_kernel_that_did_not_boot_is_not_checked() -> None:
    """Its boot has said what is wrong."""
    judgement, covers = shadow.stage(SUBJECT, None, silent)
    assert judgement.status is Status.SKIP
    assert covers is None


def test_a_clean_boot_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It tells how much slower it was."""
    result = staged(monkeypatch, CLEAN)

    assert (result.stage, result.status) == (Stage.SHADOW, Status.PASS)
    assert result.notes == ("6.0 s, without the plugin 2.5 s",)
    assert result.counts["executed_unreached"] == 2
    assert result.counts["executed_in_no_text"] == 1


def test_what_was_not_checked_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A nested guest's memory, and text that the table is not about."""
    counts = {"undecided": 3, "without_a_table": 4}
    _, memory, modules = staged(monkeypatch, replace(CLEAN, counts=counts)).notes

    assert memory == "claims that take memory no plugin can read: 3"
    assert modules == "executed where no table is, followed and not checked: 4"


def test_a_finding_says_how_to_see_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command boots it under the plugin once more."""
    result = staged(monkeypatch, replace(CLEAN, findings=(WRONG,), reason="too few"))

    assert result.status is Status.FAIL
    assert result.findings[0].reproduce == (
        "orc-harness boot /b --platform kvm --shadow"
    )


def test_a_boot_that_is_no_verdict_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A control that did not fail is our fault, not the kernel's."""
    result = staged(monkeypatch, replace(CLEAN, reason="control did not fail"))

    assert (result.status, result.exit_code) == (Status.ERROR, 3)


def test_a_machine_that_is_not_here_is_a_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its reason."""
    result = staged(monkeypatch, MissingMachine("no kernel to host a guest"))

    assert (result.status, result.reason) == (Status.MISS, "no kernel to host a guest")


def test_a_workload_that_was_cut_short_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only this boot has the whole of it, and a slow machine may end a part early."""
    result = staged(monkeypatch, replace(CLEAN, cut=("tree 1 of 3",)))

    assert result.status is Status.PASS
    assert any("tree 1 of 3" in note for note in result.notes)


def test_findings_stand_where_coverage_is_not_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without them it is an ERROR, as it is no boot of ours that tells nothing."""

    def unknown(*_: object) -> Covered:
        raise FormatError("a section of one.ko has no layout")

    def boots(*_: object, saved_bp: bool) -> ShadowResult:
        return replace(CLEAN, findings=found)

    monkeypatch.setattr(shadow, "shadow", boots)
    monkeypatch.setattr(shadow, "load", lambda _: None)
    monkeypatch.setattr(shadow, "covered", unknown)
    monkeypatch.setattr(Subject, "features", lambda *_: None)

    found: tuple[Finding, ...] = (WRONG,)
    failed, covers = shadow.stage(SUBJECT, BOOTED, silent)
    found = ()
    unknowable, _ = shadow.stage(SUBJECT, BOOTED, silent)

    assert (failed.status, covers) == (Status.FAIL, None)
    assert "what was covered is not known" in failed.notes[-1]
    assert unknowable.status is Status.ERROR
