"""What people do with a finding: look at it, have it explained, report or keep it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.verify import reproducer
from tests.builders.victim import victim_object
from tests.unit.cli.test_app import run


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An object whose replacement leaves a word on the stack."""
    path = tmp_path_factory.mktemp("victim") / "victim.o"
    path.write_bytes(victim_object())
    return path


def test_show_prints_the_texts_and_the_arrow(victim: Path) -> None:
    """Each text, the table's state, and the command that explains what is wrong."""
    done = run("show", "victim", "--of", victim)

    assert done.returncode == 0, done.stderr
    assert "replacement 1 of 1 (ALWAYS)" in done.stdout
    assert "pushfq" in done.stdout
    (arrow,) = [x for x in done.stdout.splitlines() if x.startswith("->  ")]
    assert "retq" in arrow
    assert "orc-harness explain 'alternative/end:" in done.stdout


def test_explain_has_rule_and_evidence(victim: Path) -> None:
    """The documentation's section, then the finding itself."""
    done = run("explain", "alternative/end", victim)

    assert done.returncode == 0, done.stderr
    assert "What to do: balance pushes and pops" in done.stdout
    assert "victim.o: victim+0x1" in done.stdout


def test_a_finding_that_is_kept_is_not_new(victim: Path, tmp_path: Path) -> None:
    """report-fp cuts it out, baseline add keeps it, validate reads both directories."""
    found = json.loads(run("validate", victim, "--format", "json").stdout)
    (finding,) = found["stages"][0]["findings"]
    key, where = finding["key"], tmp_path / "r.json"

    cut = run("report-fp", key, victim, "--output", where)
    add = ("baseline", "add", key, "--known", tmp_path, "--reason", "r", "--link", "l")
    added = run(*add, "--expires", "2999-12-31")
    again = run("validate", victim, "--known", tmp_path)

    assert cut.returncode == 0, cut.stderr
    assert reproducer.judge(reproducer.load(where))
    assert added.returncode == 0, added.stderr
    assert again.returncode == 0
    assert "0 new findings, 1 known causes" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["add", "a/b:c"], "lacks --reason, --link, --expires"),
        (["add", "a/b:c", "--expires", "soon"], "soon is no date"),
        (["add", "a/b:c", "--expires", "2001-01-01"], "has passed"),
        (["add", "a/b:c", "--expires", "2999-01-01"], "there is no rule a/b"),
        (["add", "a/b:c", "--reason", " ", "--link", ""], "lacks --reason, --link"),
    ],
)
def test_an_entry_needs_its_proof_and_an_end(arguments: list[str], said: str) -> None:
    """Nothing is known for ever, or for no reason."""
    full = [*arguments, "--reason", "r", "--link", "l"]

    done = run("baseline", *(full if "--expires" in arguments else arguments))

    assert done.returncode == 2
    assert said in done.stderr


def test_json_names_the_finding(victim: Path) -> None:
    """What `show` and `explain` print can be given to `baseline add`."""
    shown = json.loads(run("show", "victim", "--of", victim, "--format", "json").stdout)
    explained = run("explain", "alternative/end", victim, "--format", "json")

    (finding,) = shown["data"]["findings"]
    (again,) = json.loads(explained.stdout)["data"]["findings"]
    assert finding["key"].startswith("alternative/end:")
    assert again["key"] == finding["key"]
    assert shown["data"]["listing"]["parts"][0]["texts"][0]["label"] == "original"


def test_the_baseline_is_listed_whole(tmp_path: Path) -> None:
    """In a pipe, too: every key and link as it is, with the reason."""
    key = f"text/step:{'long' * 30}*"
    add = ("baseline", "add", key, "--known", tmp_path, "--reason", "it is so [b]")
    run(*add, "--link", f"https://x/{'y' * 120}", "--expires", "2999-12-31")

    listed = run("baseline", "list", "--known", tmp_path).stdout.splitlines()

    at = listed.index(f"known until 2999-12-31: {key}")
    assert listed[at + 1] == "  it is so [b]"
    assert listed[at + 2 : at + 4] == [f"  link      https://x/{'y' * 120}", ""]


def test_the_baseline_as_json() -> None:
    """Entries with all their fields, days as they are written."""
    entries = json.loads(run("baseline", "list", "--format", "json").stdout)["data"]

    assert entries
    assert all(len(entry["expires"]) == len("2027-11-30") for entry in entries)


def test_explain_of_a_file_that_is_none(tmp_path: Path) -> None:
    """What cannot be judged has not been found clean."""
    (tmp_path / "trunc").write_bytes(b"\x7fELF")

    done = run("explain", "text/ret-1", tmp_path / "trunc")

    assert done.returncode == 2
    assert "trunc" in done.stderr
    assert "not found in" not in done.stdout


def test_explain_of_a_key_that_is_nowhere(victim: Path) -> None:
    """Its rule is told, and that nothing has it."""
    done = run("explain", "alternative/end:nosuch", victim)

    assert done.returncode == 2
    assert "not found in" in done.stdout
    assert run("explain", "alternative/end", victim).returncode == 0


def test_explain_takes_a_pattern_of_rules(victim: Path) -> None:
    """The rule is that of what it matches; a slip is told from what is near."""
    done = run("explain", "alternative/*:*", victim)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("alternative/end")

    slip = run("explain", "alternative/ned", victim)
    assert slip.returncode == 2
    assert "alternative/end" in slip.stderr
    assert len(slip.stderr) < 300
