"""The search ends at the first bad commit, or says the range that it is in."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.bisect.answer import Outcome
from harness.bisect.dag import Dag
from harness.bisect.search import Contradiction, First, Search, Untestable
from tests.unit.bisect.histories import between, histories, top

LINE = Dag({"c0": ("good",)} | {f"c{n}": (f"c{n - 1}",) for n in range(1, 9)})


def _run(search: Search, culprit: str, unbuildable: frozenset[str]) -> Search:
    """Answer as a kernel would whose bug ``culprit`` made."""
    asked = set()
    while (commit := search.next()) is not None:
        assert commit in search.candidates
        assert commit not in asked
        asked.add(commit)
        bad = culprit in search.dag.ancestors([commit])
        outcome = Outcome.BAD if bad else Outcome.GOOD
        if commit in unbuildable:
            outcome = Outcome.SKIP
        search = search.told(commit, outcome)
    return search


@settings(deadline=None)
@given(dag=histories(), data=st.data())
def test_the_first_bad_commit_is_found(dag, data) -> None:
    """Whatever the history, the good end and the culprit."""
    good = data.draw(st.sampled_from(list(dag.parents)[:-1]))
    dag = between(dag, good)
    culprit = data.draw(st.sampled_from(list(dag.parents)))

    search = _run(Search(dag, top(dag)), culprit, frozenset())

    assert search.conclusion() == First(culprit)


@settings(deadline=None)
@given(dag=histories(), data=st.data())
def test_what_cannot_be_tested_is_said(dag, data) -> None:
    """With skips it ends at the culprit, or in a range that holds it.

    Of that range no commit but the last one could have been asked.
    """
    good = data.draw(st.sampled_from(list(dag.parents)[:-1]))
    dag = between(dag, good)
    commits = st.sampled_from(list(dag.parents))
    culprit = data.draw(commits)
    unbuildable = data.draw(st.frozensets(commits)) - {top(dag)}

    search = _run(Search(dag, top(dag)), culprit, unbuildable)

    conclusion = search.conclusion()
    if isinstance(conclusion, First):
        assert conclusion == First(culprit)
        return
    assert isinstance(conclusion, Untestable)
    assert culprit in conclusion.commits
    assert set(conclusion.skipped) == unbuildable & set(conclusion.commits)
    (bad,) = set(conclusion.commits) - set(conclusion.skipped)
    assert bad == top(dag) or search.answers[bad] is Outcome.BAD


@settings(deadline=None)
@given(dag=histories(), data=st.data())
def test_answers_in_any_order(dag, data) -> None:
    """What a log says replays to the same candidates, however it is sorted."""
    culprit = data.draw(st.sampled_from(list(dag.parents)))
    search = _run(Search(dag, top(dag)), culprit, frozenset())
    order = data.draw(st.permutations(list(search.answers.items())))

    again = Search(dag, top(dag))
    for commit, outcome in order:
        again = again.told(commit, outcome)

    assert again.candidates == search.candidates
    assert again.conclusion() == search.conclusion()


@settings(deadline=None)
@given(count=st.integers(1, 400), data=st.data())
def test_a_line_of_commits_takes_as_many_steps_as_git(count, data) -> None:
    """No more than the logarithm to the base of two, rounded up."""
    parents = {f"c{n}": (f"c{n - 1}",) for n in range(1, count + 1)}
    culprit = data.draw(st.integers(1, count))
    search = Search(Dag(parents), f"c{count}")

    steps = search.steps
    search = _run(search, f"c{culprit}", frozenset())

    assert search.conclusion() == First(f"c{culprit}")
    assert len(search.answers) <= steps == (count - 1).bit_length()


def test_one_commit_between_the_ends() -> None:
    """Then there is nothing to ask."""
    search = Search(Dag({"bad": ("good",)}), "bad")

    assert search.next() is None
    assert search.conclusion() == First("bad")


def test_a_good_commit_on_top_of_a_bad_one() -> None:
    """No culprit explains both; no commit is named."""
    search = Search(LINE, "c8").told("c2", Outcome.BAD).told("c5", Outcome.GOOD)

    assert search.next() is None
    assert search.conclusion() == Contradiction(("c2",))


def test_two_bad_sides_of_a_merge() -> None:
    """What both are made on made it; a merge of theirs did not."""
    dag = Dag({"base": ("g",), "l": ("base",), "r": ("base",), "top": ("l", "r")})
    search = Search(dag, "top").told("l", Outcome.BAD).told("r", Outcome.BAD)

    assert search.candidates == {"base"}


def test_a_merge_that_makes_it() -> None:
    """Both sides are good alone: the merge is the first bad commit."""
    dag = Dag({"l": ("g",), "r": ("g",), "top": ("l", "r")})
    search = Search(dag, "top").told("l", Outcome.GOOD).told("r", Outcome.GOOD)

    assert search.conclusion() == First("top")


def test_the_last_answer_holds() -> None:
    """A commit that is looked at again is what was seen last."""
    search = Search(LINE, "c8").told("c3", Outcome.SKIP).told("c3", Outcome.GOOD)

    assert search.candidates == {"c4", "c5", "c6", "c7", "c8"}


def test_answers_about_strangers_change_nothing() -> None:
    """The good end, and commits of other branches, are outside."""
    search = Search(LINE, "c8").told("good", Outcome.GOOD).told("x", Outcome.BAD)

    assert search.candidates == set(LINE.parents)
