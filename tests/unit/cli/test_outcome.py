"""What a run prints: the findings that people act on."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cli.options import Format
from harness.cli.outcome import conclude, show
from harness.cli.saved import Base
from harness.errors import InfraError
from harness.finding import Finding, Location
from harness.result import SCHEMA, RunResult, Stage, StageResult, Status, dump
from harness.store import past, runs
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


def test_the_page_of_a_night_has_its_past(tmp_path: Path) -> None:
    """Trends and what has changed: of the store, and of a base wherever that is."""
    store, page = str(tmp_path / "runs.sqlite"), tmp_path / "report.html"
    old, new = run(stage(finding("old"))), run(stage(counts={"sites": 7}))
    (tmp_path / "base.json").write_bytes(dump(old))

    def night(result: RunResult, base: Base, store: str | None) -> str:
        conclude(result, Format.JSON, base=base, store=store, report=tmp_path)
        return page.read_text()

    first = night(old, Base(None, None), store)
    second = night(new, Base(None, None), store)
    alone = night(new, Base(str(tmp_path / "base.json"), None), None)

    assert "Since" not in first
    assert f"Since {old.run_id}" in second
    assert "0 new, 0 known, 1 fixed" in second
    assert 'aria-label="2 runs, from 0 to 1"' in second
    assert f"Since {old.run_id}" in alone
    assert '<h2 id="trends-title">' not in alone


@pytest.mark.parametrize("lost", ["save", "past"])
def test_a_page_needs_no_store(
    lost: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    """One that fails, before or after the run is saved, costs the past alone."""

    def fail(*_: object, **__: object) -> None:
        raise InfraError("the store failed")

    monkeypatch.setattr(*{"save": (runs, "save"), "past": (past, "recent")}[lost], fail)
    store = str(tmp_path / "runs.sqlite")
    conclude(
        run(stage()), Format.TEXT, base=Base(None, None), store=store, report=tmp_path
    )

    assert "Results" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "result.json").exists()
