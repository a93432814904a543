"""A hunt proves its ends, survives kills, and believes clean builds only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from harness.bisect import journal as journals
from harness.bisect.answer import Answer, Outcome
from harness.bisect.asking import Asking
from harness.bisect.bisection import Bisection, Revert
from harness.bisect.dag import Dag
from harness.bisect.hunt import Hunt
from harness.bisect.letter import how_sure
from harness.bisect.question import Question
from harness.bisect.quorum import Quorum
from harness.bisect.search import First, Untestable
from harness.bisect.sight import ONCE, Sight, Wanted
from harness.errors import InfraError, UserError
from harness.finding import Finding, Lines, Location
from tests.unit.bisect.histories import histories, top

WINDOW = Lines(lambda: ("drawn when", "somebody looks"))
WANTED = Finding("text/step", Location("x.o", "x", 4), "wrong", window=WINDOW)
OLD = Finding("text/step", Location("x.o", "old", 4), "wrong, and always was")
MORE = Finding("text/step", Location("x.o", "y", 4), "wrong, too")
LINE = Dag({"c1": ("good",)} | {f"c{n}": (f"c{n - 1}",) for n in range(2, 13)})


@dataclass
class Kernel:
    """A history with one bug, and all that can be the matter with looking at it.

    ``lies`` are what kept directories show of some commits; ``dies`` counts looks
    down to the one in which the machine fails.
    """

    dag: Dag
    culprit: str
    unbuildable: frozenset[str] = frozenset()
    lies: dict[str, bool] = field(default_factory=dict)
    dies: int = -1
    conflict: bool = False
    looks: list[tuple[str, bool]] = field(default_factory=list)

    def look(self, commit: str, wanted: Wanted = ONCE, *, clean: bool = False) -> Sight:
        if self.dies == len(self.looks):
            raise InfraError("the disk is full")
        self.looks.append((commit, clean))
        if commit in self.unbuildable:
            return Sight(commit, None, "does not build", clean=clean)
        bad = self.culprit in self.dag.ancestors([commit])
        if " without " in commit:
            bad = not commit.endswith(f" {self.culprit}")
        if not clean:
            bad = self.lies.get(commit, bad)
        found = (OLD, WANTED) if bad else (OLD,)
        return Sight(commit, found, digest=f"{bad}", toolchain="gcc", clean=clean)

    def revert(self, commit: str, onto: str, *, merge: bool) -> str | None:
        return None if self.conflict else f"{onto} without {commit}"


def _question(dag: Dag, key: str = WANTED.key) -> Question:
    return Question("/linux", "good", top(dag), "native", "x.o", ("gcc",), key)


@contextmanager
def _opened(path: Path, question: Question) -> Iterator[journals.Journal]:
    opening = journals.resume if path.exists() else journals.begin
    with opening(path, question) as journal:
        yield journal


def _hunt(path: Path, kernel: Kernel, key: str = WANTED.key, **more) -> Bisection:
    question = _question(kernel.dag, key)
    with _opened(path, question) as journal:
        asking = Asking(question, kernel, journal)
        return Hunt(kernel.dag, asking, kernel, **more).run()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def test_the_whole_way(path) -> None:
    """Ends first, then the logarithm, then clean looks at the pair, then the revert."""
    kernel = Kernel(LINE, "c7")

    found = _hunt(path, kernel)

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

    found = _hunt(tmp_path_factory.mktemp("any") / "journal", kernel)

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
        _hunt(path, kernel)
    before = len(kernel.looks)
    kernel.dies = -1

    found = _hunt(path, kernel)

    assert found.conclusion == First("c7")
    if dies >= 2:
        told = {commit for commit, clean in kernel.looks[:before] if not clean}
        again = {c for c, clean in kernel.looks[before:] if not clean}
        assert not told & again


def test_how_many_more_there_are(path) -> None:
    """A resumed hunt says so, too."""

    class Two(Kernel):
        def look(
            self, commit: str, wanted: Wanted = ONCE, *, clean: bool = False
        ) -> Sight:
            sight = super().look(commit, wanted, clean=clean)
            more = (MORE,) if WANTED in sight.findings else ()
            return replace(sight, findings=(*sight.findings, *more))

    kernel = Two(LINE, "c7")

    assert [_hunt(path, kernel).others for _ in range(2)] == [1, 1]


def test_without_a_key_the_new_finding_is_sought(path) -> None:
    """What both ends have is not it."""
    found = _hunt(path, Kernel(LINE, "c3"), key="")

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
        _hunt(path, looker, key)

    assert {commit for commit, _ in looker.looks} <= {"c12", "good"}


@settings(deadline=None)
@given(data=st.data())
def test_stale_objects_do_not_mislead(tmp_path_factory, data) -> None:
    """Whatever a kept directory shows between the ends, the clean builds decide."""
    culprit = data.draw(st.sampled_from(list(LINE.parents)))
    middle = st.sampled_from([f"c{n}" for n in range(1, 12)])
    lies = data.draw(st.dictionaries(middle, st.booleans()))
    kernel = Kernel(LINE, culprit, lies=lies)

    found = _hunt(tmp_path_factory.mktemp("lies") / "journal", kernel)

    assert found.conclusion == First(culprit)
    assert found.first is not None
    assert found.first.clean


def test_what_clean_builds_contradict_is_forgotten(path) -> None:
    """And a resumed hunt does not remember it either."""
    lies = {f"c{n}": False for n in range(3, 12)}
    kernel = Kernel(LINE, "c3", lies=lies)

    assert _hunt(path, kernel).conclusion == First("c3")

    kernel.looks.clear()
    assert _hunt(path, kernel).conclusion == First("c3")
    assert all(clean for _, clean in kernel.looks[:-1])


def test_what_does_not_repeat_is_said(path) -> None:
    """A finding that comes and goes in clean builds of one commit has no culprit."""

    class Moody(Kernel):
        def look(
            self, commit: str, wanted: Wanted = ONCE, *, clean: bool = False
        ) -> Sight:
            sight = super().look(commit, wanted, clean=clean)
            turn = sum(seen == (commit, True) for seen in self.looks)
            if clean and commit == "c7" and turn % 2:
                return replace(sight, findings=(OLD,))
            return sight

    kernel = Moody(LINE, "c7", lies={"c7": True})

    with pytest.raises(UserError, match="not reproducible"):
        _hunt(path, kernel)


def test_a_log_is_replayed(path) -> None:
    """Its answers are not asked for; strangers in it are left out."""
    replayed = {c: Answer(c, o, runs=0) for c, o in _LOG.items()}
    kernel = Kernel(LINE, "c7")

    found = _hunt(path, kernel, replayed=replayed)

    assert found.conclusion == First("c7")
    assert "x" not in {answer.commit for answer in found.answers}
    assert not {("c6", False), ("c8", False)} & set(kernel.looks)


_LOG = {"c6": Outcome.GOOD, "c8": Outcome.BAD, "x": Outcome.BAD}


def test_a_parent_that_nobody_can_test(path) -> None:
    """It is good if what is made on it is: that it does not build is no surprise."""
    dag = Dag({"s": ("good",), "ok": ("s",), "c": ("s",), "top": ("c", "ok")})
    kernel = Kernel(dag, "c", frozenset({"s"}))
    skipped = {"s": Answer("s", Outcome.SKIP, runs=0)}

    found = _hunt(path, kernel, replayed=skipped)

    assert found.conclusion == First("c")
    assert [sight.findings for sight in found.parents] == [None]


def test_a_branch_from_behind_the_good_end(path) -> None:
    """It brought back what was fixed before: said so, and nothing is distrusted."""
    dag = Dag(
        {"s1": ("old",), "s2": ("s1",), "m": ("good",), "merge": ("m", "s2")}
        | {"top": ("merge",)}
    )

    class Forked(Kernel):
        def look(
            self, commit: str, wanted: Wanted = ONCE, *, clean: bool = False
        ) -> Sight:
            self.looks.append((commit, clean))
            found = (OLD,) if commit in ("good", "m") else (OLD, WANTED)
            return Sight(commit, found, clean=clean)

    kernel = Forked(dag, "old")

    with pytest.raises(UserError, match=r"old, .* behind .* fixed before good"):
        _hunt(path, kernel)
    assert kernel.looks[-2:] == [("s1", True), ("old", True)]


def test_no_ops_are_told(path) -> None:
    """What left the bytes of its parent is one; what left those of any other is not."""

    class Bytes(Kernel):
        def look(
            self, commit: str, wanted: Wanted = ONCE, *, clean: bool = False
        ) -> Sight:
            sight = super().look(commit, wanted, clean=clean)
            return replace(sight, digest="bad" if sight.findings[1:] else "good")

    line = Dag({"c1": ("good",)} | {f"c{n}": (f"c{n - 1}",) for n in range(2, 5)})

    found = _hunt(path, Bytes(line, "c4"))

    same = {answer.commit: answer.same_as for answer in found.answers}
    assert same == {"c4": "", "good": "", "c2": "good", "c3": "good"}
    assert found.no_ops == ("c3",)  # c1 was not looked at: c2 may have undone it


def test_behind_a_commit_that_does_not_build(path) -> None:
    """Which of the two it is a revert tells: the range stays one, and is singled out."""
    found = _hunt(path, Kernel(LINE, "c7", frozenset({"c6"})))

    assert found.conclusion == Untestable(("c6", "c7"), ("c6",))
    assert found.reverts == {"c6": Revert.STILL_THERE, "c7": Revert.GONE}
    assert found.culprit == "c7"
    assert not found.found


def test_a_range_is_confirmed(path) -> None:
    """Its bad end, what does not build and what lies before; and what reverts leave."""
    kernel = Kernel(LINE, "c7", frozenset({"c6"}))

    _hunt(path, kernel)

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

    assert _hunt(path, kernel).conclusion == First("c10")


def test_what_does_not_build_in_kept_directories_only(path) -> None:
    """It is told apart by clean builds."""

    class Kept(Kernel):
        def look(
            self, commit: str, wanted: Wanted = ONCE, *, clean: bool = False
        ) -> Sight:
            sight = super().look(commit, wanted, clean=clean)
            if commit == "c6" and not clean:
                return replace(sight, findings=None, reason="does not build")
            return sight

    assert _hunt(path, Kept(LINE, "c7")).conclusion == First("c7")


def test_what_a_log_skips_is_not_looked_at(path) -> None:
    """People skip what takes the machine down with it."""
    kernel = Kernel(LINE, "c7")
    skipped = {"c6": Answer("c6", Outcome.SKIP, runs=0)}

    assert isinstance(_hunt(path, kernel, replayed=skipped).conclusion, Untestable)
    assert "c6" not in {commit for commit, _ in kernel.looks}


def test_a_long_range_is_not_reverted(path) -> None:
    """Each one takes a build."""
    found = _hunt(path, Kernel(LINE, "c7", frozenset(f"c{n}" for n in range(2, 10))))

    assert isinstance(found.conclusion, Untestable)
    assert found.reverts == {}
    assert found.culprit == ""


def test_a_revert_that_conflicts(path) -> None:
    """It is said, and nothing is built."""
    kernel = Kernel(LINE, "c7", conflict=True)

    assert _hunt(path, kernel).reverts == {"c7": Revert.CONFLICT}
    assert kernel.looks[-1] == ("c6", True)


@dataclass
class Flaky:
    """Kernels that show the finding at each third look only, if they have it."""

    culprit: int
    looked: int = 0
    asked: list[Wanted] = field(default_factory=list)

    def look(self, commit: str, wanted: Wanted = ONCE, *, clean: bool = False) -> Sight:
        self.asked.append(wanted)
        number = 0 if commit == "good" else int(commit.removeprefix("c").split()[0])
        runs = shown = 0
        while runs < wanted.runs and not (shown and wanted.key):
            runs, self.looked = runs + 1, self.looked + 1
            shown += number >= self.culprit and self.looked % 3 == 0
        found = (WANTED,) if shown else ()
        times = {WANTED.key: shown}
        return Sight(commit, found, clean=clean, runs=runs, shown=times)

    def revert(self, commit: str, onto: str, *, merge: bool) -> str | None:
        return "c0 without it"


@pytest.mark.parametrize("key", ["", WANTED.key])
def test_what_shows_now_and_then(path, key) -> None:
    """The rate is measured at the bad end; each good takes as many looks as that asks."""
    question, looker = _question(LINE, key), Flaky(7)
    quorum = Quorum(looks=30, confidence=0.95, rate=0)
    with _opened(path, question) as journal:
        asking = Asking(question, looker, journal, quorum=quorum)
        found = Hunt(LINE, asking, looker).run()

    assert found.conclusion == First("c7")
    assert (found.sure.shown, found.sure.looks) == (10, 30)
    assert found.sure.rate == pytest.approx(0.1729, abs=1e-4)  # at 97.5 %
    assert 0.95 <= found.sure.confidence < 1
    runs = {answer.runs for answer in found.answers if answer.outcome is Outcome.GOOD}
    assert runs == {29, 30}  # 6 goods: 6 * (1 - rate) ** 29 <= 0.025; the end had 30
    assert found.reverts == {"c7": Revert.GONE}
    assert "10 of 30 boots of the bad end" in "\n".join(
        how_sure(found.sure, found.answers)
    )


def test_luck_does_not_count(path) -> None:
    """Without a key the boots that chose it say nothing of its rate: others do."""

    class Lucky(Flaky):
        def look(
            self, commit: str, wanted: Wanted = ONCE, *, clean: bool = False
        ) -> Sight:
            first = not self.asked
            sight = super().look(commit, wanted, clean=clean)
            return replace(sight, shown={WANTED.key: sight.runs}) if first else sight

    question, looker = _question(LINE, ""), Lucky(7)
    quorum = Quorum(looks=30, confidence=0.95, rate=0)
    with _opened(path, question) as journal:
        found = Hunt(
            LINE, Asking(question, looker, journal, quorum=quorum), looker
        ).run()

    assert (found.sure.shown, found.sure.looks) == (10, 30)
    assert [answer.shown for answer in found.answers if answer.commit == "c12"] == [10]


def test_what_shows_too_seldom(path) -> None:
    """Nobody waits for that many boots: it is said how to need less."""
    question, looker = _question(LINE), Flaky(7)
    quorum = Quorum(looks=3, confidence=0.99, rate=0)
    with _opened(path, question) as journal:
        asking = Asking(question, looker, journal, quorum=quorum)
        with pytest.raises(UserError, match="shows too seldom") as raised:
            Hunt(LINE, asking, looker).run()

    assert "--boots" in str(raised.value.hint)


def test_a_target_that_is_not_there(path) -> None:
    """A misspelt object is no clean one."""

    class Nothing(Kernel):
        def look(
            self, commit: str, wanted: Wanted = ONCE, *, clean: bool = False
        ) -> Sight:
            return Sight(commit, (), "no source of x.o")

    with pytest.raises(UserError, match=r"bad end c12 has no source of x\.o"):
        _hunt(path, Nothing(LINE, "c7"))
