"""The state file holds what was told before a kill, and refuses what is not its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from harness.bisect.answer import Answer, Outcome
from harness.bisect.journal import Distrusted, Journal, Sought, Told, begin, resume
from harness.bisect.question import Question
from harness.errors import FormatError, InfraError, UserError
from harness.finding import Finding, Location

QUESTION = Question("/linux", "a" * 40, "b" * 40, "native", "lib/x.o", ("bookworm",))
FINDING = Finding("text/step", Location("x.o", "x", 4), "wrong", window=("one", "two"))
A = Answer("a" * 40, Outcome.GOOD, digest="d1", toolchain="bookworm", seconds=2.5)
B = Answer("b" * 40, Outcome.BAD, digest="d2", clean=True)
C = Answer("c" * 40, Outcome.SKIP, "does not build")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "journal"


def test_everything_comes_back(path) -> None:
    """Answers in their order, and the finding with its window."""
    with begin(path, QUESTION) as journal:
        journal.add(Told(A))
        journal.add(Sought(FINDING))
        journal.add(Told(B))

    with resume(path, QUESTION) as journal:
        assert list(journal.answers.values()) == [A, B]
        assert journal.sought == Sought(FINDING)
        assert not journal.distrusted


def test_it_is_on_the_disk_at_once(path) -> None:
    """A kill right behind an answer loses nothing."""
    with begin(path, QUESTION) as journal:
        journal.add(Told(A))

        assert path.read_bytes().count(b"\n") == 2


@settings(deadline=None)  # every line waits for the disk
@given(cut=st.integers(1, 60))
def test_a_line_that_was_cut_short_is_dropped(tmp_path_factory, cut) -> None:
    """And the next one is written in its place."""
    path = tmp_path_factory.mktemp("cut") / "journal"
    with begin(path, QUESTION) as journal:
        journal.add(Told(A))
        before = path.stat().st_size
        journal.add(Told(B))
    data = path.read_bytes()
    path.write_bytes(data[: max(len(data) - cut, before)])

    with resume(path, QUESTION) as journal:
        assert list(journal.answers) == [A.commit]
        journal.add(Told(C))
    with resume(path, QUESTION) as journal:
        assert list(journal.answers.values()) == [A, C]


def test_the_last_answer_of_a_commit_holds(path) -> None:
    """It was looked at again, in a clean directory."""
    again = replace(A, outcome=Outcome.BAD, clean=True)
    with begin(path, QUESTION) as journal:
        for answer in (A, B, again):
            journal.add(Told(answer))

        assert list(journal.answers.values()) == [B, again]


def test_what_is_distrusted_does_not_count(path) -> None:
    """Only clean builds do, before and after."""
    with begin(path, QUESTION) as journal:
        for line in (Told(A), Told(B), Distrusted("differs"), Told(C)):
            journal.add(line)

    with resume(path, QUESTION) as journal:
        assert journal.distrusted
        assert list(journal.answers) == [B.commit, C.commit]


def test_a_new_one_keeps_the_old_one(path) -> None:
    """Beginning anew is no loss of what took hours."""
    with begin(path, QUESTION) as journal:
        journal.add(Told(A))
    with begin(path, QUESTION) as journal:
        assert journal.answers == {}

    assert b'"d1"' in path.with_name("journal.old").read_bytes()


def test_a_new_one_that_came_to_nothing(path) -> None:
    """It does not take the place of the one that took hours."""
    with begin(path, QUESTION) as journal:
        journal.add(Told(A))
    for _ in range(3):
        with begin(path, QUESTION):
            pass

    assert b'"d1"' in path.with_name("journal.old").read_bytes()


def test_a_full_disk(path) -> None:
    """The machine fails: nobody's bug."""
    with (
        pytest.raises(InfraError, match=r"cannot write .*: No space left"),
        Path("/dev/full").open("wb") as file,
    ):
        Journal(path, file).add(Told(A))


def test_another_question(path) -> None:
    """A state file of other ends is not continued."""
    with begin(path, QUESTION):
        pass

    with (
        pytest.raises(UserError, match="another bisection"),
        resume(path, replace(QUESTION, good="c" * 40)),
    ):
        pass


def test_two_at_once(path) -> None:
    """The second one is told, in either way of opening."""
    with begin(path, QUESTION):
        for opened in (begin(path, QUESTION), resume(path, QUESTION)):
            with pytest.raises(UserError, match="in use"), opened:
                pass


@pytest.mark.parametrize(
    "text", ["", "{}\n", "hello\n", '{"kind": "told", "answer": {}}\n']
)
def test_what_is_none_of_ours(path, text) -> None:
    """It says so, and which line."""
    path.parent.mkdir()
    path.write_text(text)

    with pytest.raises(FormatError, match="journal"), resume(path, QUESTION):
        pass


def test_nothing_to_resume(path) -> None:
    """The path is in the message."""
    with (
        pytest.raises(UserError, match="nothing to resume"),
        resume(path, QUESTION),
    ):
        pass
