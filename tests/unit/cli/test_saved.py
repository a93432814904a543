"""Runs that are kept: listed, told apart, and judged against."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.cli import saved
from harness.result import load
from harness.store.database import open_database
from tests.builders.victim import NOP, victim_object
from tests.unit.cli.test_app import run


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """An object with a finding."""
    path = tmp_path / "victim.o"
    path.write_bytes(victim_object())
    return path


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Where no runs are yet."""
    return str(tmp_path / "runs.sqlite")


def test_a_saved_run_is_listed_and_printed_again(bad: Path, store: str) -> None:
    """What validate printed is what the store has."""
    done = run("validate", bad, "--store", store, "--format", "json")
    listed = run("history", "--format", "json", ORC_HARNESS_STORE=store)
    again = run("report", "last", "--store", store, "--format", "json")

    assert done.returncode == again.returncode == 1, done.stderr
    assert again.stdout == done.stdout
    (summary,) = json.loads(listed.stdout)["data"]
    assert summary["run_id"] == json.loads(done.stdout)["run_id"]
    assert (summary["new"], summary["judged"], summary["exit_code"]) == (1, 1, 1)


def test_no_run_of_that_key_or_profile(bad: Path, store: str) -> None:
    """What was asked for is not there: that is no empty list."""
    run("validate", bad, "--store", store)

    for asked in (("--key", "text/step:x"), ("--profile", "full")):
        done = run("history", *asked, "--store", store, "--format", "json")

        assert (done.returncode, done.stdout) == (2, "")
        assert "has that key or profile" in done.stderr


def test_accepted_then_good_then_fixed(bad: Path, store: str, tmp_path: Path) -> None:
    """What a run has is accepted with it; the last good run passes it on."""
    first = run("validate", bad, "--format", "json")
    accepted = tmp_path / "accepted.json"
    accepted.write_text(first.stdout)
    keep = ("--store", store)

    none = run("validate", bad, *keep, "--baseline", "last-good")
    known = run("validate", bad, *keep, "--baseline", accepted)
    still = run("validate", bad, *keep, "--baseline", "last-good")
    bad.write_bytes(victim_object(NOP))
    fixed = run("validate", bad, *keep, "--baseline", "last-good")
    diff = run("diff", accepted, "last", *keep, "--format", "json")

    codes = [done.returncode for done in (first, none, known, still, fixed)]
    assert codes == [1, 1, 0, 0, 0]
    assert "no good run of this yet" in none.stderr
    assert "0 new, 1 known, 0 fixed" in known.stdout
    assert "0 new, 0 known, 1 fixed" in fixed.stdout
    assert "fixed  alternative/end:" in fixed.stdout
    found = json.loads(diff.stdout)["data"]
    assert [len(found[group]) for group in ("new", "known", "fixed")] == [0, 0, 1]


def test_the_base_may_be_of_another_directory(bad: Path, store: str) -> None:
    """Its name is the same: it is taken, and of what it is stands beside it."""
    bad.write_bytes(victim_object(NOP))
    run("validate", bad, "--store", store)
    moved = bad.parent / "moved" / bad.name
    moved.parent.mkdir()
    moved.write_bytes(victim_object())

    done = run("validate", moved, "--store", store, "--baseline", "last-good")
    bad.write_bytes(victim_object())
    same = run("validate", bad, "--store", store, "--baseline", "last-good")

    assert f"note: the store has no good run of {moved}: what" in done.stderr
    assert f"is of {bad}\nagainst" in done.stdout
    assert f"is of {bad}\nagainst" in same.stdout
    assert "note:" not in same.stderr


def test_trend_and_diff_as_text(bad: Path, store: str) -> None:
    """A row for what moved; exit code 1 for what got worse."""
    bad.write_bytes(victim_object(NOP))
    run("validate", bad, "--store", store)
    bad.write_bytes(victim_object())
    run("validate", bad, "--store", store)
    listed = json.loads(run("history", "--store", store, "--format", "json").stdout)
    good, last = (each["run_id"] for each in listed["data"])

    trend = run("history", "--trend", "--store", store)
    worse = run("diff", good, "last", "--store", store)
    better = run("diff", last, good, "--store", store)

    (row,) = [line for line in trend.stdout.splitlines() if "new findings" in line]
    assert "▁█" in row
    assert (worse.returncode, better.returncode) == (1, 0)
    assert f"{good} -> {last}: 1 new, 0 known, 0 fixed, 0 unseen" in worse.stdout


def test_what_was_not_validated_is_not_fixed(bad: Path, tmp_path: Path) -> None:
    """The file is gone: unseen; both trees are said, which were two."""
    both, other = tmp_path / "both", tmp_path / "other"
    results = []
    for build in (both, other):
        build.mkdir()
        (build / "a.ko").write_bytes(victim_object(NOP))
        if build is both:
            bad.rename(build / "b.ko")
        results.append(build.with_suffix(".json"))
        results[-1].write_text(run("validate", build, "--format", "json").stdout)

    diff = run("diff", *results)

    assert "0 new, 0 known, 0 fixed, 1 unseen" in diff.stdout
    assert f"is of {both}\n" in diff.stdout
    assert f"is of {other}\n" in diff.stdout


def test_the_verdict_stands_when_saving_fails(
    bad: Path, store: str, tmp_path: Path, cache: Path
) -> None:
    """One error, the verdict's exit code, and the run in a file that can be added."""
    broken = str(tmp_path / "broken.sqlite")
    with open_database(broken) as database, database.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER no BEFORE INSERT ON run BEGIN SELECT RAISE(ABORT, 'no'); END"
        )

    done = run("validate", bad, "--store", broken)

    assert done.returncode == 1
    assert "alternative/end:" in done.stdout
    assert "error: the run is not saved: the store" in done.stderr
    (kept,) = (cache / "unsaved").iterdir()
    assert f"orc-harness history --add {kept} saves it" in done.stderr
    added = run("history", "--add", kept, "--store", store, "--format", "json")
    assert json.loads(added.stdout)["data"][0]["run_id"] == load(kept).run_id


def test_a_bug_of_ours_loses_no_run(
    bad: Path, store: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever saving it raises: it is in a file."""

    def broken(*_: object) -> None:
        raise KeyError("stage")

    result = bad.with_suffix(".json")
    result.write_text(run("validate", bad, "--format", "json").stdout)
    found = load(result)
    monkeypatch.setattr("harness.store.runs.save", broken)
    with pytest.raises(KeyError):
        saved.save(found, store)

    assert load(cache / "unsaved" / f"{found.run_id}.json") == found


@pytest.mark.parametrize(
    ("store", "said", "code"),
    [
        ("mysql://host/database", "mysql://host/database is no store", 2),
        ("{bad}", "victim.o is no store of orc-harness", 2),
        ("{bad}/no/directory.sqlite", "cannot make", 3),
    ],
)
def test_a_store_that_cannot_be_is_refused_first(
    bad: Path, store: str, said: str, code: int
) -> None:
    """Before any work: there is no verdict."""
    done = run("validate", bad, "--store", store.format(bad=bad))

    assert done.returncode == code
    assert not done.stdout
    assert said in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("report", "last"), "there is no store"),
        (("report",), "cannot read report: No such file"),
        (("history",), "there is no store"),
        (("diff", "a.json", "b.json"), "cannot read a.json: No such file"),
        (("diff", ""), "a run's name is empty"),
        (("history", "--store", ""), "--store is empty"),
        (("validate", ".", "--store", ""), "--store is empty"),
        (("history", "--add", "nowhere"), "cannot read nowhere: No such file"),
    ],
)
def test_what_is_not_there(
    arguments: tuple[str, ...],
    said: str,
    store: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One error, and no empty store is left behind."""
    monkeypatch.chdir(tmp_path)  # people have a report/ beside them
    Path("vmlinux.o").write_bytes(victim_object())
    Path("result.json").touch()
    done = run(*arguments, ORC_HARNESS_STORE=store)

    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path(store).exists()


def test_an_expired_entry_is_stronger_than_a_base(
    bad: Path, store: str, tmp_path: Path
) -> None:
    """A baseline run does not prolong what was reviewed until a day, and that is said."""
    first = tmp_path / "first.json"
    first.write_text(run("validate", bad, "--format", "json").stdout)
    (finding,) = load(first).stages[0].findings
    entry = tmp_path / "known" / "one.toml"
    entry.parent.mkdir()
    entry.write_text(
        f"key = {json.dumps(finding.key)}\nreason = 'r'\nevidence = []\nlink = 'l'\n"
        "affected = 'a'\nexpires = 2020-01-01\n"
    )
    keep = ("--store", store, "--known", entry.parent)

    done = run("validate", bad, *keep, "--baseline", first)
    diff = run("diff", first, "last", "--store", store)
    explained = run("explain", finding.key, "--known", entry.parent)

    assert done.returncode == diff.returncode == 1
    assert "  expired   2020-01-01: r, l\n" in done.stdout
    assert "1 new findings" in done.stdout
    assert ": 1 new, 0 known" in done.stdout
    assert ": 1 new, 0 known" in diff.stdout
    assert "was known until 2020-01-01" in explained.stdout


def test_the_page_of_a_saved_run(bad: Path, store: str) -> None:
    """It has the past that the store has, up to that run; of a file it has none."""
    keep = ("--store", store)
    bad.write_bytes(victim_object(NOP))
    run("validate", bad, *keep)
    bad.write_bytes(victim_object())
    run("validate", bad, *keep, "--baseline", "last-good")
    run("validate", bad, *keep)

    listed = json.loads(run("history", *keep, "--format", "json").stdout)["data"]
    good, worse, _ = (each["run_id"] for each in listed)
    page = run("report", worse, *keep, "--format", "html")
    alone = run("report", worse, "--format", "html", ORC_HARNESS_STORE=store)

    assert page.returncode == 1, page.stderr
    assert f"Since {good}" in page.stdout
    assert 'aria-label="2 runs, from 0 to 1"' in page.stdout
    assert alone.stdout == page.stdout
