"""The report says which commit, shows the code before and after, and replays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from harness.bisect.answer import Answer, Outcome
from harness.bisect.bisection import Bisection, Revert
from harness.bisect.excerpt import excerpt
from harness.bisect.letter import letter
from harness.bisect.question import Question
from harness.bisect.quorum import Sure
from harness.bisect.replay import parse
from harness.bisect.repository import Commit
from harness.bisect.search import Contradiction, First, Untestable
from harness.bisect.sight import Sight, grouped
from harness.cli.options import to_json
from harness.kernel_build import find
from harness.stages.inspect import findings_of
from tests.builders.elfwriter import ALLOC, EXEC, UND, ElfWriter, add_orc, call

GOOD, BAD, OLD = ("a" * 40, "b" * 40, "c" * 40)
STEP = "orc-harness bisect-step --finding K"
ANSWERS = (
    Answer(BAD, Outcome.BAD, digest="1", toolchain="bookworm", clean=True),
    Answer(OLD, Outcome.SKIP, "does not\n  build:  x.c", toolchain=""),
    Answer(GOOD, Outcome.GOOD, digest="2", same_as=OLD, toolchain="bookworm"),
)


def _file(path: Path, behind_push: int) -> Path:
    """An object whose function pushes: the table behind that is right with 16."""
    writer = ElfWriter()
    text = writer.section(".text", bytes.fromhex("50 90 58 c3"), flags=ALLOC | EXEC)
    writer.symbol("f", text, 0, 4)
    rows = [(0, call(8)), (1, call(behind_push)), (3, call(8)), (4, UND)]
    add_orc(writer, text, rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(writer.build())
    return path


@pytest.fixture
def found(tmp_path) -> Bisection:
    """A bisection whose first bad commit left the table behind a push as it was."""
    right = _file(tmp_path / "right" / "x.o", 16)
    wrong = _file(tmp_path / "wrong" / "x.o", 8)
    findings = grouped(findings_of(find(wrong), wrong))
    assert grouped(findings_of(find(right), right)) == ()
    key = findings[0].key
    return Bisection(
        Question("/linux", GOOD, BAD, "native 1234", "lib/x.o", ("bookworm",), key),
        findings[0],
        len(findings) - 1,
        ANSWERS,
        First(BAD),
        Sight(BAD, findings, clean=True, file=wrong),
        (Sight(GOOD, (), clean=True, file=right),),
        {BAD: Revert.GONE},
    )


def _about(commit: str) -> Commit:
    return Commit(commit, "A <a@b>", "2026-01-01", f"subject of {commit[0]}")


def test_the_whole_letter(found) -> None:
    """Commit, finding, both windows, revert and commands, in lines for a mail."""
    text = letter(found, _about, "orc-harness bisect --tree /linux", STEP)

    assert text.startswith(f"The first bad commit is {BAD}\n")
    assert 'bbbbbbbbbbbb ("subject of b")' in text
    assert found.sought.key in text
    assert "the finding is gone" in text
    before, after = text.split("Before, at ")[1].split("After, at ")
    assert "sp+16 call" in before
    assert "->" not in before
    assert "sp+16 call" not in after.split("Reverting")[0]
    assert "->" in after.split("Reverting")[0]
    assert "orc-harness bisect --tree /linux" in text
    assert f"git bisect run {STEP}" in text
    assert max(map(len, text.splitlines())) <= 100


def test_what_was_tested_replays(found) -> None:
    """The report holds a git bisect log."""
    lines = letter(found, _about, "orc-harness", STEP).splitlines()
    log = [line.strip() for line in lines if line.strip().startswith(("git b", "#"))]
    log = [line for line in log if not line.startswith("git bisect run")]

    assert parse("\n".join(log)).answers == (
        (Outcome.BAD, BAD),
        (Outcome.SKIP, OLD),
        (Outcome.GOOD, GOOD),
    )
    assert "; same bytes as cccccccccccc" in "\n".join(log)
    assert "does not build: x.c" in "\n".join(log)


def test_a_no_op(found) -> None:
    """Only what left the bytes that it is made on is called so."""
    told = letter(replace(found, no_ops=(GOOD,)), _about, "orc-harness", STEP)

    assert 'subject of a"); no-op: same bytes as what it is made on' in told
    assert "no-op" not in letter(found, _about, "orc-harness", STEP)


def test_for_machines(found) -> None:
    """The same as JSON: findings, answers and what they come to."""
    data = json.loads(to_json(found))["data"]

    assert data["conclusion"] == {"commit": BAD}
    assert data["sought"]["rule"] == found.sought.rule
    assert [answer["outcome"] for answer in data["answers"]] == ["bad", "skip", "good"]


def test_an_untestable_range_is_listed(found) -> None:
    """Every commit that may be it, and why it is not told."""
    unclear = replace(
        found, conclusion=Untestable((BAD, OLD), (OLD,)), first=None, reverts={}
    )

    text = letter(unclear, _about, "orc-harness", STEP)

    assert text.startswith("Untestable range: one of 2 commits makes ")
    assert 'bbbbbbbbbbbb ("subject of b"): bad' in text
    assert 'cccccccccccc ("subject of c"): not testable' in text
    assert "Reverting" not in text

    reverts = {OLD: Revert.STILL_THERE, BAD: Revert.GONE}
    text = letter(replace(unclear, reverts=reverts), _about, "orc-harness", STEP)
    assert 'so it is bbbbbbbbbbbb ("subject of b")' in text


def test_answers_that_contradict(found) -> None:
    """No commit is blamed."""
    unclear = replace(found, conclusion=Contradiction((BAD,)), first=None, reverts={})

    assert letter(unclear, _about, "orc-harness", STEP).startswith(
        "No single commit makes "
    )


def test_code_that_is_not_there_yet(found, tmp_path) -> None:
    """The parent of a commit that adds a function, or a file, has no window."""
    other = replace(found.sought, location=replace(found.sought.location, symbol="g"))

    assert excerpt(None, found.sought) == ("(there is no such file yet)",)
    assert "has no symbol g" in excerpt(_file(tmp_path / "y.o", 16), other)[0]


def test_how_sure_boots_are(found) -> None:
    """Where the rate comes from, and what is left of the confidence; else not a word."""
    booted = replace(
        found,
        question=replace(found.question, oracle="shadow, 10 boots"),
        sure=Sure(9, 10, 0.5, 0.97),
        answers=(*ANSWERS[:-1], replace(ANSWERS[-1], runs=12)),
    )

    text = letter(booted, _about, "orc-harness", STEP)

    assert "9 of 10 boots of the bad end showed it" in text
    assert "50.0% of its boots" in text
    assert "Good answers: 1, each of 12 boots or more without it." in text
    assert "97.0%, or more" in text
    assert "# asked: shadow, 10 boots" in text
    assert "boots" not in letter(found, _about, "orc-harness", STEP)
