"""A hunt proves its ends, survives kills, and believes clean builds only."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from harness.bisect.answer import Answer, Outcome
from harness.bisect.bisection import Revert
from harness.bisect.dag import Dag
from harness.bisect.search import First, Untestable
from harness.bisect.sight import Sight
from harness.errors import InfraError, UserError
from tests.unit.bisect.histories import histories, top
from tests.unit.bisect.kernels import (
    LINE,
    MORE,
    OLD,
    WANTED,
    Kernel,
    hunt,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def test_the_whole_way(path) -> None:
    """Ends first, then the logarithm, then clean looks at the pair, then the revert."""
    kernel = Kernel(LINE, "c7")

    found = hunt(path, kernel)

    assert found.conclusion == First("c7")
    assert found.sought == WANTED
    assert [commit for commit, _ in kernel.looks[:2]] == ["c12", "good"]
    assert kernel.looks[-3:-1] == [("c7", True), ("c6", True)]
    assert found.first is not None
    assert found.first.findings == (OLD, WANTED)
    assert [sight.findings for sight in found.parents] == [(OLD,)]
    assert set(found.reverts.values()) == {Revert.GONE}
    assert len(kernel.looks) <= 2 + 4 + 2 + 1


@settings(deadline=None)  # every answer waits for the disk
@given(dag=histories(16), data=st.data())
def test_any_history(tmp_path_factory, dag, data) -> None:
    """The culprit is found, or the untestable range has it."""
    root, *commits = dag.parents
    dag = Dag(
        {c: tuple("good" if p == root else p for p in dag.parents[c]) for c in commits}
    )
    culprit = data.draw(st.sampled_from(commits))
    unbuildable = data.draw(st.frozensets(st.sampled_from(commits))) - {top(dag)}
    kernel = Kernel(dag, culprit, unbuildable)

    found = hunt(tmp_path_factory.mktemp("any") / "journal", kernel)

    if isinstance(found.conclusion, First):
        assert found.conclusion.commit == culprit
    else:
        assert isinstance(found.conclusion, Untestable)
        assert culprit in found.conclusion.commits


@pytest.mark.parametrize("dies", range(8))
def test_it_survives_a_kill(path, dies) -> None:
    """At any look; no answer that was kept is asked for again."""
    kernel = Kernel(LINE, "c7", dies=dies)
    with pytest.raises(InfraError):
        hunt(path, kernel)
    before = len(kernel.looks)
    kernel.dies = -1

    found = hunt(path, kernel)

    assert found.conclusion == First("c7")
    if dies >= 2:
        told = {commit for commit, clean in kernel.looks[:before] if not clean}
        again = {c for c, clean in kernel.looks[before:] if not clean}
        assert not told & again


def test_how_many_more_there_are(path) -> None:
    """A resumed hunt says so, too."""

    class Two(Kernel):
        def told(self, sight: Sight) -> Sight:
            more = (MORE,) if WANTED in sight.findings else ()
            return replace(sight, findings=(*sight.findings, *more))

    kernel = Two(LINE, "c7")

    assert [hunt(path, kernel).others for _ in range(2)] == [1, 1]


def test_without_a_key_the_new_finding_is_sought(path) -> None:
    """What both ends have is not it."""
    found = hunt(path, Kernel(LINE, "c3"), key="")

    assert (found.sought, found.conclusion) == (WANTED, First("c3"))


@pytest.mark.parametrize(
    ("looker", "key", "message"),
    [
        (Kernel(LINE, "c99"), WANTED.key, "the bad end is good"),
        (Kernel(LINE, "c99"), "", "the ends do not differ"),
        (Kernel(LINE, "c3"), OLD.key, "the good end is bad"),
        (
            Kernel(LINE, "c3", frozenset({"c12"})),
            "",
            "the bad end c12 cannot be tested: does not build",
        ),
        (
            Kernel(LINE, "c3", frozenset({"good"})),
            "",
            "the good end good cannot be tested",
        ),
    ],
)
def test_ends_that_are_not_what_they_should_be(path, looker, key, message) -> None:
    """Nothing between them is looked at."""
    with pytest.raises(UserError, match=message):
        hunt(path, looker, key)

    assert {commit for commit, _ in looker.looks} <= {"c12", "good"}


@settings(deadline=None)
@given(data=st.data())
def test_stale_objects_do_not_mislead(tmp_path_factory, data) -> None:
    """Whatever a kept directory shows between the ends, the clean builds decide."""
    culprit = data.draw(st.sampled_from(list(LINE.parents)))
    middle = st.sampled_from([f"c{n}" for n in range(1, 12)])
    lies = data.draw(st.dictionaries(middle, st.booleans()))
    kernel = Kernel(LINE, culprit, lies=lies)

    found = hunt(tmp_path_factory.mktemp("lies") / "journal", kernel)

    assert found.conclusion == First(culprit)
    assert found.first is not None
    assert found.first.clean


def test_what_clean_builds_contradict_is_forgotten(path) -> None:
    """And a resumed hunt does not remember it either."""
    lies = {f"c{n}": False for n in range(3, 12)}
    kernel = Kernel(LINE, "c3", lies=lies)

    assert hunt(path, kernel).conclusion == First("c3")

    kernel.looks.clear()
    assert hunt(path, kernel).conclusion == First("c3")
    assert all(clean for _, clean in kernel.looks[:-1])


def test_what_does_not_repeat_is_said(path) -> None:
    """A finding that comes and goes in clean builds of one commit has no culprit."""

    class Moody(Kernel):
        def told(self, sight: Sight) -> Sight:
            turn = self.looks.count((sight.commit, True))
            if sight.clean and sight.commit == "c7" and turn % 2:
                return replace(sight, findings=(OLD,))
            return sight

    kernel = Moody(LINE, "c7", lies={"c7": True})

    with pytest.raises(UserError, match="not reproducible"):
        hunt(path, kernel)


def test_a_log_is_replayed(path) -> None:
    """Its answers are not asked for; strangers in it are left out."""
    replayed = {c: Answer(c, o, runs=0) for c, o in _LOG.items()}
    kernel = Kernel(LINE, "c7")

    found = hunt(path, kernel, replayed=replayed)

    assert found.conclusion == First("c7")
    assert "x" not in {answer.commit for answer in found.answers}
    assert not {("c6", False), ("c8", False)} & set(kernel.looks)


_LOG = {"c6": Outcome.GOOD, "c8": Outcome.BAD, "x": Outcome.BAD}


def test_a_parent_that_nobody_can_test(path) -> None:
    """It is good if what is made on it is: that it does not build is no surprise."""
    dag = Dag({"s": ("good",), "ok": ("s",), "c": ("s",), "top": ("c", "ok")})
    kernel = Kernel(dag, "c", frozenset({"s"}))
    skipped = {"s": Answer("s", Outcome.SKIP, runs=0)}

    found = hunt(path, kernel, replayed=skipped)

    assert found.conclusion == First("c")
    assert [sight.findings for sight in found.parents] == [None]


def test_a_branch_from_behind_the_good_end(path) -> None:
    """It brought back what was fixed before: said so, and nothing is distrusted."""
    dag = Dag(
        {"s1": ("old",), "s2": ("s1",), "m": ("good",), "merge": ("m", "s2")}
        | {"top": ("merge",)}
    )

    class Forked(Kernel):
        def told(self, sight: Sight) -> Sight:
            fine = sight.commit in ("good", "m")
            return replace(sight, findings=(OLD,) if fine else (OLD, WANTED))

    kernel = Forked(dag, "old")

    with pytest.raises(UserError, match=r"old, .* behind .* fixed before good"):
        hunt(path, kernel)
    assert kernel.looks[-2:] == [("s1", True), ("old", True)]


def test_no_ops_are_told(path) -> None:
    """What left the bytes of its parent is one; what left those of any other is not."""

    class Bytes(Kernel):
        def told(self, sight: Sight) -> Sight:
            return replace(sight, digest="bad" if sight.findings[1:] else "good")

    line = Dag({"c1": ("good",)} | {f"c{n}": (f"c{n - 1}",) for n in range(2, 5)})

    found = hunt(path, Bytes(line, "c4"))

    same = {answer.commit: answer.same_as for answer in found.answers}
    assert same == {"c4": "", "good": "", "c2": "good", "c3": "good"}
    assert found.no_ops == ("c3",)  # c1 was not looked at: c2 may have undone it


def test_behind_a_commit_that_does_not_build(path) -> None:
    """Which of the two it is a revert tells: the range stays one, and is singled out."""
    found = hunt(path, Kernel(LINE, "c7", frozenset({"c6"})))

    assert found.conclusion == Untestable(("c6", "c7"), ("c6",))
    assert found.reverts == {"c6": Revert.STILL_THERE, "c7": Revert.GONE}
    assert found.culprit == "c7"
    assert not found.found


def test_a_range_is_confirmed(path) -> None:
    """Its bad end, what does not build and what lies before; and what reverts leave."""
    kernel = Kernel(LINE, "c7", frozenset({"c6"}))

    hunt(path, kernel)

    assert kernel.looks[-5:] == [
        ("c7", True),
        ("c6", True),
        ("c5", True),
        ("c12 without c6", True),
        ("c12 without c7", True),
    ]


def test_a_range_that_kept_directories_made(path) -> None:
    """What is bad, or does not build, there only is in no report."""
    lies = dict.fromkeys(("c7", "c8", "c9"), True)
    kernel = Kernel(LINE, "c10", frozenset({"c5", "c6"}), lies)

    assert hunt(path, kernel).conclusion == First("c10")


def test_what_does_not_build_in_kept_directories_only(path) -> None:
    """It is told apart by clean builds."""

    class Kept(Kernel):
        def told(self, sight: Sight) -> Sight:
            if sight.commit == "c6" and not sight.clean:
                return replace(sight, findings=None, reason="does not build")
            return sight

    assert hunt(path, Kept(LINE, "c7")).conclusion == First("c7")


def test_what_a_log_skips_is_not_looked_at(path) -> None:
    """People skip what takes the machine down with it."""
    kernel = Kernel(LINE, "c7")
    skipped = {"c6": Answer("c6", Outcome.SKIP, runs=0)}

    assert isinstance(hunt(path, kernel, replayed=skipped).conclusion, Untestable)
    assert "c6" not in {commit for commit, _ in kernel.looks}


def test_a_long_range_is_not_reverted(path) -> None:
    """Each one takes a build."""
    found = hunt(path, Kernel(LINE, "c7", frozenset(f"c{n}" for n in range(2, 10))))

    assert isinstance(found.conclusion, Untestable)
    assert found.reverts == {}
    assert found.culprit == ""


def test_a_revert_that_conflicts(path) -> None:
    """It is said, and nothing is built."""
    kernel = Kernel(LINE, "c7", conflict=True)

    assert hunt(path, kernel).reverts == {"c7": Revert.CONFLICT}
    assert kernel.looks[-1] == ("c6", True)


def test_a_target_that_is_not_there(path) -> None:
    """A misspelt object is no clean one."""

    class Nothing(Kernel):
        def told(self, sight: Sight) -> Sight:
            return Sight(sight.commit, (), "no source of x.o")

    with pytest.raises(UserError, match=r"bad end c12 has no source of x\.o"):
        hunt(path, Nothing(LINE, "c7"))
