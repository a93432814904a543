"""A log of git's is read as git wrote it, and nothing else is."""

from __future__ import annotations

import subprocess

import pytest

from harness.bisect.answer import Outcome
from harness.bisect.replay import parse
from harness.errors import FormatError

BAD, GOOD, SKIP = Outcome.BAD, Outcome.GOOD, Outcome.SKIP


def test_a_log_that_git_wrote(tmp_path) -> None:
    """Of a bisection with each of its answers; its ends are not read."""

    def git(*argv: str) -> str:
        identity = ("-c", "user.name=A", "-c", "user.email=a@b")
        done = subprocess.run(
            ["git", *identity, *argv],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    git("init", "-q", ".")
    for number in range(9):
        git("commit", "-q", "--allow-empty", "-m", f"it's {number} # no comment")
    git("bisect", "start", "HEAD", "HEAD~8")
    told = []
    for outcome in (GOOD, SKIP, BAD):
        told.append((outcome, git("rev-parse", "HEAD")))
        git("bisect", outcome.value)

    assert parse(git("bisect", "log")).answers == tuple(told)


def test_other_words_for_it() -> None:
    """``--term-bad`` and ``--term-good`` name the commands."""
    log = parse(
        "git bisect start '--term-bad=broken' '--term-good=fine' '--' 'lib'\n"
        "git bisect broken aaaa\n"
        "git bisect fine bbbb cccc\n"
        "git bisect skip dddd\n"
    )

    assert log.answers == (
        (BAD, "aaaa"),
        (GOOD, "bbbb"),
        (GOOD, "cccc"),
        (SKIP, "dddd"),
    )


@pytest.mark.parametrize("option", ["--term-new{}slow", "--term-bad{}slow"])
@pytest.mark.parametrize("equals", ["=", "' '"])
def test_words_as_git_quotes_them(option, equals) -> None:
    """An option and its value are one word of a log, or two: as they were typed."""
    log = parse(
        f"git bisect start '--term-old{equals}fast' '{option.format(equals)}'\n"
        "git bisect fast aaaa\ngit bisect slow bbbb\n"
    )

    assert log.answers == ((GOOD, "aaaa"), (BAD, "bbbb"))


@pytest.mark.parametrize(
    "line",
    ["'", "hello", "git log", "git bisect", "git bisect good", "git bisect run make"],
)
def test_what_is_no_log(line) -> None:
    """The line is in the message."""
    with pytest.raises(FormatError, match="mine:2"):
        parse(f"# bad: [a] b\n{line}\n", "mine")
