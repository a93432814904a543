"""What is kept: each attempt, the one verdict of them, and by whose baseline."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from msgspec.structs import replace

from harness.baseline import Known
from harness.cells.kept import (
    Kept,
    Results,
    dump,
    judged_again,
    merged,
    parse,
    renamed,
    tried,
)
from harness.errors import ExitCode
from harness.result import Stage, StageResult, Status
from tests.builders.results import finding, stage

TODAY = date(2026, 11, 27)


def lost(of: Stage = Stage.BOOT, code: int = ExitCode.INFRASTRUCTURE) -> StageResult:
    """Return a stage that came to no verdict."""
    return stage(of=of, status=Status.ERROR, reason="lost guest", exit_code=code)


@pytest.mark.parametrize(
    ("first", "attempts"),
    [
        (stage(), 1),
        (stage(finding()), 1),
        (stage(status=Status.MISS), 1),
        (lost(), 2),
        (lost(code=ExitCode.USAGE), 1),
        (lost(code=ExitCode.INTERNAL), 1),
    ],
    ids=["pass", "fail", "miss", "machine", "tree", "bug"],
)
def test_only_a_machine_gets_a_second_chance(first: StageResult, attempts: int) -> None:
    """A kernel that does not compile, and a bug of ours, stay what they are."""
    left = [[first], [stage()]]

    made = tried(lambda: left.pop(0))

    assert len(made) == attempts


def test_twice_and_no_more() -> None:
    """A machine that stays broken is told of."""
    count = []

    def attempt() -> list[StageResult]:
        count.append(1)
        return [lost()]

    assert len(tried(attempt)) == len(count) == 2


def test_the_verdict_is_the_one_that_there_is() -> None:
    """The attempt that came to one counts; the note says what became of the other."""
    (good,) = merged([[lost()], [stage(of=Stage.BOOT)]])
    (also,) = merged([[stage(of=Stage.BOOT)], [lost()]])
    (none,) = merged([[lost()], [lost()]])

    assert good.status is also.status is Status.PASS
    assert good.notes == ("another attempt: ERROR: lost guest",)
    assert none.status is Status.ERROR
    assert len(none.notes) == 1


@pytest.mark.parametrize("other", [Status.SKIP, Status.MISS])
def test_an_error_is_no_skip(other: Status) -> None:
    """What one attempt lost, and the other did not come to, has no verdict."""
    left_out = stage(of=Stage.COMPARE, status=other, reason="no boot")
    first = [stage(of=Stage.BOOT), lost(Stage.COMPARE)]
    second = [lost(Stage.BOOT), left_out]

    for attempts in ((first, second), (second, first)):
        both = Kept("k", "cell", "night", tuple(map(tuple, attempts)), {})
        boot, compare = both.stages
        assert boot.status is Status.PASS
        assert (compare.status, compare.exit_code) == (Status.ERROR, 3)
        assert compare.notes == (f"another attempt: {other}: no boot",)
        assert not both.final


def test_a_finding_is_not_lost_by_another_attempt() -> None:
    """It was there once: it is not made undone by a boot that went well."""
    found = stage(finding(), of=Stage.COMPARE)
    well = stage(of=Stage.COMPARE)

    for attempts in ([[found], [well]], [[well], [found]]):
        (verdict,) = merged(attempts)
        assert verdict.status is Status.FAIL
        assert verdict.notes == ("another attempt: PASS",)


def test_stages_keep_their_order() -> None:
    """Also those that only the second attempt came to."""
    first = [stage(of=Stage.BUILD), lost(Stage.VALIDATE)]
    second = [stage(of=each) for each in Stage]

    assert [each.stage for each in merged([first, second])] == list(Stage)


def kept(*stages: StageResult, key: str = "k") -> Kept:
    """Return a cell's result."""
    return Kept(key, "cell", "night", (stages,), {"qemu": "10"}, "tree", "host")


def test_only_what_came_to_an_end_answers_another_night() -> None:
    """MISS and SKIP would be the same again; an ERROR may not."""
    assert kept(stage(finding()), stage(status=Status.MISS)).final
    assert not kept(lost()).final


def test_what_is_read_is_what_was_kept(tmp_path: Path) -> None:
    """Findings and consoles whole, with bytes that are no characters."""
    whole = kept(stage(finding(window=("a", "b")), notes=("console \udcff\0",)))
    results = Results(tmp_path / "cells")

    assert results.find("k") is None
    results.keep(whole)

    assert results.find("k") == whole
    assert [path.name for path in (tmp_path / "cells").iterdir()] == ["k.json"]


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", dump(kept(stage()))[:-9]])
def test_what_cannot_be_read_is_not_there(tmp_path: Path, data: bytes) -> None:
    """It is made again: another version's, or half of one."""
    (tmp_path / "k.json").write_bytes(data)

    assert parse(data) is None
    assert Results(tmp_path).find("k") is None


def test_todays_baseline_judges() -> None:
    """What was new may be known by now, and what was known may have expired."""
    new = stage(finding("f"))
    entry = Known("text/depth:vmlinux:f:*", "why", (), "http://l", "all", TODAY)
    expired = Known(entry.key, "why", (), "http://l", "all", date(2026, 1, 1))

    (excused,) = judged_again([new], [entry], TODAY)
    (again,) = judged_again([excused], [expired], TODAY)

    assert (excused.status, len(excused.known)) == (Status.PASS, 1)
    lapsed = finding("f", expired=("2026-01-01: why, http://l",))
    assert again == replace(new, findings=(lapsed,))
    assert judged_again([lost()], [entry], TODAY) == (lost(),)


def test_a_cell_that_was_renamed() -> None:
    """Its result goes by the new name."""
    assert renamed([stage(variant="old")], "new") == (stage(variant="new"),)
