"""Replay: what ``git bisect log`` wrote, as answers. Pure.

git writes each answer twice, as a comment with the subject and as the command that
gives it; only the commands are read. The ends that ``git bisect start`` was given stand
there as they were typed, and may mean other commits today: ours are proved anew.
"""

from __future__ import annotations

import itertools
import shlex

from msgspec import Struct

from harness.bisect.answer import Answer, Outcome
from harness.errors import FormatError

REASON = "git bisect log"
_GIT_TERMS = {"new": Outcome.BAD, "old": Outcome.GOOD, "skip": Outcome.SKIP}


class Log(Struct, frozen=True):
    """Each answer of a log, in its order: the outcome and the commit."""

    answers: tuple[tuple[Outcome, str], ...]


def parse(text: str, name: str = "the log") -> Log:
    """Read the output of ``git bisect log``.

    Raises:
        FormatError: a line is no comment and no command that such a log has.
    """
    bad, good = "bad", "good"
    answers: list[tuple[Outcome, str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = _words(line)
        if not words:
            continue
        if words[:2] != ["git", "bisect"] or len(words) < 3:
            raise FormatError(f"{name}:{number}: no line of a git bisect log: {line!r}")
        command, revisions = words[2], words[3:]
        if command == "start":
            bad, good = _terms(revisions, bad, good)
            continue
        outcomes = {bad: Outcome.BAD, good: Outcome.GOOD, **_GIT_TERMS}
        outcome = outcomes.get(command)
        if outcome is None or not revisions:
            raise FormatError(
                f"{name}:{number}: cannot replay {line!r}",
                hint=f"it has start, {good}, {bad} and skip, each with its commits",
            )
        answers += [(outcome, revision) for revision in revisions]
    return Log(tuple(answers))


def _words(line: str) -> list[str]:
    """Return the words of ``line``, comments aside; where a quote is left open, all of it."""
    try:
        return shlex.split(line, comments=True)
    except ValueError:
        return [line]


def _terms(words: list[str], bad: str, good: str) -> tuple[str, str]:
    """Return what the options of ``start`` call bad and good: ``=`` may be a space."""
    for option, following in itertools.pairwise([*words, ""]):
        name, equals, value = option.partition("=")
        term = value if equals else following
        bad = term if name in ("--term-bad", "--term-new") else bad
        good = term if name in ("--term-good", "--term-old") else good
    return bad, good


def answer(outcome: Outcome, commit: str) -> Answer:
    """Return what the log says of ``commit``, as an answer nobody looked at again."""
    return Answer(commit, outcome, reason=REASON, runs=0)
