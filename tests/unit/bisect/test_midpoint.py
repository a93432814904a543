"""The next commit is weighed as git weighs it."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings

from harness.bisect import midpoint
from harness.bisect.dag import Dag
from tests.unit.bisect.histories import histories, top


@settings(deadline=None)
@given(dag=histories())
def test_a_weight_is_the_number_of_ancestors(dag) -> None:
    """Counted by walking, for each commit alone."""
    walked = {commit: len(dag.ancestors([commit])) for commit in dag.parents}

    assert midpoint.weigh(dag) == walked


@settings(deadline=None)
@given(dag=histories())
def test_weights_in_chunks(dag) -> None:
    """How many are told apart at once changes nothing."""
    whole = midpoint.weigh(dag)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(midpoint, "CHUNK", 3)

        assert midpoint.weigh(dag) == whole


@settings(deadline=None)
@given(dag=histories())
def test_parents_come_first(dag) -> None:
    """Each commit once."""
    order = list(dag.upwards())

    assert sorted(order) == sorted(dag.parents)
    for commit, parents in dag.parents.items():
        assert all(order.index(parent) < order.index(commit) for parent in parents)


@pytest.mark.parametrize("seed", range(6))
def test_git_chooses_no_better(seed, tmp_path) -> None:
    """Its choice in a real repository has the distance of ours."""
    chance = random.Random(seed)
    count = 40
    made_on = {
        n: sorted({n - 1, *chance.choices(range(1, n), k=chance.choice((0, 0, 2)))})
        for n in range(2, count + 1)
    }
    lines = [_commit(1, [])]
    lines += [_commit(n, parents) for n, parents in made_on.items()]
    _git(tmp_path, "init", "-q", "--bare", ".")
    _git(tmp_path, "fast-import", "--quiet", text="".join(lines))
    listed = _git(tmp_path, "rev-list", "--parents", "main", "^main~20")
    rows = [line.split() for line in listed.splitlines()]
    dag = Dag({row[0]: tuple(row[1:]) for row in rows})
    theirs = _git(tmp_path, "rev-list", "--bisect", "main", "^main~20").strip()

    ours = midpoint.choose(dag, rows[0][0], frozenset())

    far = midpoint.distances(dag)
    assert ours is not None
    assert far[ours] == far[theirs] > 0


def _commit(number: int, parents: list[int]) -> str:
    first, *rest = sorted(parents, reverse=True) or [0]
    lines = [
        "commit refs/heads/main",
        f"mark :{number}",
        f"committer A <a@b> {number} +0000",
        "data 1",
        "x",
    ]
    lines += [f"from :{first}"] if first else []
    lines += [f"merge :{parent}" for parent in rest]
    return "\n".join([*lines, "", ""])


def _git(where: Path, *argv: str, text: str = "") -> str:
    done = subprocess.run(
        ["git", *argv],
        cwd=where,
        input=text,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_the_tip_is_not_asked_again() -> None:
    """It is bad already."""
    dag = Dag({"a": ("g",), "b": ("a",)})

    assert midpoint.choose(dag, "b", frozenset()) == "a"
    assert midpoint.choose(dag, "b", frozenset({"a"})) is None


def test_behind_a_skip_it_goes_away() -> None:
    """The neighbour of a commit that does not build is not what is tried next."""
    dag = Dag({f"c{n}": (f"c{n - 1}",) for n in range(1, 101)})
    first = midpoint.choose(dag, top(dag), frozenset())
    second = midpoint.choose(dag, top(dag), frozenset({str(first)}))

    assert abs(int(str(first)[1:]) - int(str(second)[1:])) > 1


@pytest.mark.parametrize("count", [1, 2, 3, 10, 1000, 200_000])
def test_how_far_it_goes(count) -> None:
    """Never beyond the last."""
    assert 0 <= midpoint.skip_away(count) < count
