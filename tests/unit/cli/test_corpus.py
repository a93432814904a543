"""The corpus command: its table, its exit codes, what it says about misses."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli import corpus as command
from harness.cli.app import app
from harness.corpus.garden import Grown
from harness.errors import ExitCode, UserError
from harness.finding import Finding, Location
from tests.builders.elfwriter import ALLOC, EXEC, UND, ElfWriter, add_orc
from tests.unit.corpus.program import FUNCTION, ROWS


@pytest.fixture
def spoilt(tmp_path: Path) -> Path:
    """A kernel's worth of one function."""
    writer = ElfWriter()
    text = writer.section(".text", FUNCTION, flags=ALLOC | EXEC, align=16)
    writer.symbol("f", text, 0, len(FUNCTION))
    add_orc(writer, text, [*ROWS, (len(FUNCTION), UND)])
    path = tmp_path / "kernel.o"
    path.write_bytes(writer.build())
    return path


def corpus(*arguments: str) -> tuple[int, str]:
    """Run the command in this process; return exit code and output."""
    result = CliRunner().invoke(app, ["corpus", *arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_a_class_that_is_found_whole(spoilt: Path) -> None:
    """It is met, and the exit code says so."""
    code, text = corpus(
        "--of", str(spoilt), "--class", "orc/duplicate", "--count", "3", "-j", "1"
    )

    assert code == ExitCode.CLEAN
    assert "3 mutants" in text
    assert "0 missed, 0 false alarms" in text


def test_the_json_document(spoilt: Path) -> None:
    """Machines get scores, detectors and misses."""
    code, text = corpus(
        "--of", str(spoilt), "--class", "orc/duplicate", "--count", "2",
        "-j", "1", "--format", "json",
    )  # fmt: skip
    document = json.loads(text[text.index("{") :])

    (score,) = document["data"]["scores"]
    assert code == ExitCode.CLEAN
    assert score["name"] == "orc/duplicate"
    assert score["made"] == score["detected"] == 2
    assert "table/duplicate" in score["detectors"]


def test_a_deadline_is_no_verdict(spoilt: Path) -> None:
    """What was not tried is counted, and the exit code is the machine's."""
    code, text = corpus(
        "--of", str(spoilt), "--class", "orc", "--count", "40",
        "-j", "1", "--timeout", "0",
    )  # fmt: skip

    assert code == ExitCode.INFRASTRUCTURE
    assert "were not tried before the deadline" in text


def test_an_unknown_class(spoilt: Path) -> None:
    """It is a mistake of usage."""
    with pytest.raises(UserError, match="no class of mutants"):
        corpus("--of", str(spoilt), "--class", "nonsense")


def test_an_unknown_plant() -> None:
    """The error lists those that there are."""
    with pytest.raises(UserError, match="no plant nonsense") as caught:
        corpus("--plants", "--class", "nonsense")

    assert "alt-ret-1" in (caught.value.hint or "")


def test_no_build_to_spoil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty store says how to fill it."""
    monkeypatch.setenv("ORC_HARNESS_CACHE", str(tmp_path))

    with pytest.raises(UserError, match="no native kernel in the store") as caught:
        corpus()

    assert "--of" in (caught.value.hint or "")


def test_the_garden(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row for each plant, the reason of each that has none, and the tally."""
    where = Finding(
        "alternative/ret-1",
        Location("vmlinux", "f", 4),
        "wrong",
        blame="compiler: the code itself is so",
    )
    grown = [
        Grown("alt-ret-1", "there", found=1, findings=(where,), blamed=True),
        Grown("alt-two-clash", error="it does not build"),
    ]
    monkeypatch.setattr(command.matrix, "workshop", lambda *_: nullcontext())
    monkeypatch.setattr(command, "grow", lambda *_: grown)
    plants = [plant for plant in command.read_plants() if plant.name.startswith("alt-")]
    chosen = [p for p in plants if p.name in ("alt-ret-1", "alt-two-clash")]
    monkeypatch.setattr(command, "read_plants", lambda: chosen)

    code, text = corpus("--plants")

    assert code == ExitCode.FINDINGS
    assert "alternative/ret-1" in text
    assert "f+0x4" in text
    assert "NOT BUILT" in text
    assert "alt-two-clash: it does not build" in text
    assert "2 plants, 1 built, 1 found (50%)" in text
