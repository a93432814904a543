"""Nights: one at a time, and what was killed goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cells.cell import read
from harness.cells.kept import Kept
from harness.cells.night import night, question, result, write_attempts
from harness.errors import UserError
from harness.history.against import series
from harness.result import Stage, StageResult, Status
from tests.builders.results import finding, stage

CELLS = read()[:2]


class Killed(Exception):
    """What a test ends a night with."""


def unfinished(asked: str, directory: Path) -> str:
    """Return the name of a night that was killed."""
    with pytest.raises(Killed), night(asked, directory) as first:
        raise Killed
    return first.name


def test_what_was_killed_goes_on(tmp_path: Path) -> None:
    """By its own name, until it is finished; then the next is another."""
    name = unfinished("q", tmp_path)
    with night("q", tmp_path) as second:
        assert (second.name, second.resumed) == (name, True)
    with night("q", tmp_path) as third:
        assert third.name != name
        assert not third.resumed


def test_another_question_is_another_night(tmp_path: Path) -> None:
    """What is asked for decides, and how."""
    name = unfinished("q", tmp_path)
    with night("other", tmp_path) as other:
        assert other.name != name

    assert question(CELLS, seed=0) == question(read()[:2], seed=0)
    assert question(CELLS, seed=0) != question(CELLS, seed=1)
    assert question(CELLS, seed=0) != question(CELLS[:1], seed=0)


def test_one_at_a_time(tmp_path: Path) -> None:
    """Two that do the same would do everything twice."""
    with (
        night("q", tmp_path),
        pytest.raises(UserError, match="run already"),
        night("q", tmp_path),
    ):
        pass


def test_what_is_a_day_old_begins_anew(tmp_path: Path) -> None:
    """Its errors are no answers any more."""
    name = unfinished("q", tmp_path)
    path = tmp_path / "q.json"
    text = path.read_text()
    year = text.partition('"started": "')[2][:4]
    path.write_text(text.replace(f'"started": "{year}', '"started": "2020'))

    with night("q", tmp_path) as now:
        assert now.name != name


@pytest.mark.parametrize(
    "text",
    ["", "{}", '{"name": "n", "asked": "q", "started": "?", "resumed": false}'],
)
def test_a_broken_file_is_no_night(tmp_path: Path, text: str) -> None:
    """A machine that died while it wrote begins anew."""
    (tmp_path / "q.json").write_text(text)

    with night("q", tmp_path) as now:
        assert not now.resumed


def kept(name: str, of_night: str, *attempts: tuple[StageResult, ...]) -> Kept:
    """Return a cell's result."""
    return Kept(f"key of {name}", name, of_night, attempts, {"qemu": "10"}, "t", "host")


def test_the_run_of_a_night(tmp_path: Path) -> None:
    """All cells are in it; those that were not made again say whose they are."""
    with night("q", tmp_path) as now:
        both = [
            kept("was", "earlier", (stage(of=Stage.BUILD), stage(finding()))),
            kept("new", now.name, (stage(of=Stage.BUILD), stage())),
        ]
        run = result(now, both, CELLS, "matrix")

    assert [one.variant for one in run.stages] == [
        *[CELLS[0].name] * 2,
        *[CELLS[1].name] * 2,
    ]
    assert [one.status for one in run.stages] == [
        Status.PASS,
        Status.FAIL,
        Status.PASS,
        Status.PASS,
    ]
    assert "answered by the run earlier, on host" in run.stages[0].notes[0]
    assert run.stages[2].notes == ()
    assert run.exit_code == 1
    assert run.started == now.started
    # what nights of one matrix are compared by
    assert (run.profile, series(run.tree)) == ("matrix", "matrix")


def test_both_attempts_are_written(tmp_path: Path) -> None:
    """And nothing of what was tried once."""
    lost = stage(status=Status.ERROR, reason="lost guest")
    once, twice = kept("a", "n", (stage(),)), kept("b", "n", (lost,), (stage(),))

    (path,) = write_attempts([once, twice], tmp_path)

    assert path == tmp_path / "attempts/b.json"
    assert "lost guest" in path.read_text()
