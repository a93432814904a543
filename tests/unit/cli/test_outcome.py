"""What a run prints: the findings that people act on."""

from __future__ import annotations

import pytest

from harness.cli.options import Format
from harness.cli.outcome import show
from harness.finding import Finding, Location
from harness.result import SCHEMA, RunResult, Stage, StageResult, Status
from tests.builders.results import finding, run, stage


def test_what_says_the_same_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    """One message, with both keys; JSON has both findings."""
    findings = tuple(
        Finding("text/frame", Location("vmlinux", name, 4), "wrong", "sp+8", "sp+16")
        for name in ("f", "g")
    )
    stage = StageResult(Stage.VALIDATE, "vmlinux", Status.FAIL, findings=findings)
    result = RunResult(SCHEMA, "r", "2026", 1.0, "validate", "vmlinux", {}, (stage,))

    show(result, Format.TEXT)
    printed = capsys.readouterr().out

    assert printed.count(": wrong") == 1
    assert all(finding.key in printed for finding in findings)
    assert "2 new findings" in printed

    show(result, Format.JSON)
    assert capsys.readouterr().out.count('"message": "wrong"') == 2


def test_a_terminal_is_told_nothing_but_text(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An escape of a symbol's, a byte of a path that is no UTF-8."""
    told = finding("f\x1b[2J", window=("\x9b2J",))
    result = run(stage(told, variant="a\udcff", reason="r"), tree="lin\udcffux")

    show(result, Format.TEXT)

    printed = capsys.readouterr().out
    assert all(word in printed for word in (r"f\x1b[2J", r"\x9b2J", r"a\udcff"))
