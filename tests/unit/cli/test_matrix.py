"""``orc-harness matrix``: what is said before, during and after a night."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.cli import matrix
from tests.unit.cli.test_app import run


def test_a_cell_that_is_not_there() -> None:
    """Usage, with what lists them."""
    done = run("matrix", "2.4-hurd")

    assert done.returncode == 2
    assert "no cell is called 2.4-hurd" in done.stderr
    assert "--plan" in done.stderr


def test_a_file_that_is_no_matrix(tmp_path: Path) -> None:
    """One error, no traceback."""
    (tmp_path / "mine.toml").write_text("[set]\na = 1\n")

    done = run("matrix", "--matrix", tmp_path / "mine.toml")

    assert done.returncode == 2
    assert "mine.toml holds no matrix" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("jobs", [0, -1])
def test_no_jobs(jobs: int) -> None:
    """Usage, before anything is asked of the machine."""
    done = run("matrix", "6.12-gcc12-native", "--plan", "--jobs", jobs)

    assert done.returncode == 2
    assert "--jobs" in done.stderr


def test_a_plan_where_nothing_answers() -> None:
    """Without a container engine it still says which cells, and what they take."""
    done = run(
        "matrix", "*-native", "--plan", "--format", "json", "--runtime", "podman",
        DOCKER_HOST="unix:///nowhere",
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    planned = json.loads(done.stdout)["data"]
    assert {"6.12-gcc12-native", "6.12-clang-native"} <= {
        one["cell"] for one in planned
    }
    assert {one["kernel"] for one in planned} == {"unknown"}
    assert all(one["guest"]["memory_mb"] > 1024 for one in planned)
    assert done.stderr.count("note: ") == 1, "it is as true of each cell"


def test_a_plan_on_a_terminal() -> None:
    """A line for each cell, whole in 80 columns."""
    done = run(
        "matrix", "--nightly", "--plan", "--runtime", "podman",
        DOCKER_HOST="unix:///nowhere",
    )  # fmt: skip

    lines = done.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines)
    mitigated = [
        "6.12-gcc12-native-mitigations-off",
        "bookworm",
        "unknown",
        "to",
        "make",
    ]
    assert [line.split()[:5] for line in lines].count(mitigated) == 1


def test_a_night_with_no_engine(tmp_path: Path) -> None:
    """Each cell is an ERROR, tried twice, and both results are kept; exit code 3."""
    done = run(
        "matrix", "6.12-gcc12-native", "--runtime", "podman", "--format", "json",
        "--report", tmp_path, DOCKER_HOST="unix:///nowhere",
    )  # fmt: skip

    assert done.returncode == 3, done.stderr
    assert "1 cells: 1 made in this run, 0 unchanged" in done.stderr
    stages = json.loads(done.stdout)["stages"]
    assert [stage["status"] for stage in stages] == ["ERROR", *["SKIP"] * 5]
    kept = json.loads((tmp_path / "attempts/6.12-gcc12-native.json").read_text())
    assert len(kept["attempts"]) == 2


def test_what_is_counted() -> None:
    """Those of this night, and those of others."""
    from tests.unit.cells.test_night import kept

    both = [kept("a", "one"), kept("b", "two"), kept("c", "two")]
    said = matrix._counted(both, "two")
    assert said.startswith("3 cells: 2 made in this run, 1 unchanged")


@pytest.mark.parametrize("name", ["matrix", "run"])
def test_both_have_help(name: str) -> None:
    """The four variants are `run`; the matrix is its own command."""
    assert run(name, "--help").returncode == 0
