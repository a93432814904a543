"""Letter: a bisection as plain text that can be sent to a mailing list."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from harness.bisect.answer import Answer, Outcome
from harness.bisect.bisection import Bisection
from harness.bisect.excerpt import excerpt
from harness.bisect.question import occurs
from harness.bisect.quorum import Sure
from harness.bisect.repository import Commit
from harness.bisect.search import Contradiction, First, Untestable
from harness.bisect.sight import Sight
from harness.report import text

About = Callable[[str], Commit]
_WIDTH = 98


def letter(found: Bisection, about: About, command: str, step: str) -> str:
    """Return the report.

    ``about`` tells what people call a commit; ``command`` was this bisection, ``step``
    is what ``git bisect run`` runs for the same.
    """
    return "\n".join(_paragraphs(found, about, command, step)).rstrip() + "\n"


def _paragraphs(
    found: Bisection, about: About, command: str, step: str
) -> Iterator[str]:
    yield from _headline(found, about)
    yield from section("The finding, at the bad end", text.lines(found.sought))
    if found.others:
        yield f"  ({found.others} more findings are new there, too.)"
    if found.first is not None:
        yield from _windows(found, found.first)
    if found.reverts:
        yield from section("Reverting on the bad end", _reverted(found, about))
    if found.question.is_booted:
        yield from section("How sure that is", how_sure(found.sure, found.answers))
    yield from section("What was tested", _tested(found, about))
    yield from section("To do it again", _commands(found, command, step))


def section(title: str, lines: Iterable[str]) -> Iterator[str]:
    """Yield a paragraph under its title."""
    yield ""
    yield f"{title}:"
    yield ""
    yield from (f"  {line}".rstrip() for line in lines)


def _headline(found: Bisection, about: About) -> Iterator[str]:
    conclusion = found.conclusion
    key = found.sought.key
    if isinstance(conclusion, First):
        commit = about(conclusion.commit)
        yield f"The first bad commit is {commit.hash}"
        yield ""
        yield f"  {commit}"
        yield f"  Author: {commit.author}"
        yield f"  Date:   {commit.date}"
        yield ""
        yield f"It makes {key}"
        yield "It and what it is made on were confirmed in empty output directories."
    elif isinstance(conclusion, Untestable):
        yield f"Untestable range: one of {len(conclusion.commits)} commits makes {key}"
        yield ""
        for hash_ in conclusion.commits:
            why = "not testable" if hash_ in conclusion.skipped else "bad"
            yield f"  {about(hash_)}: {why}"
        yield ""
        yield "Its bad end and what it is made on were confirmed in empty output directories."
    else:
        assert isinstance(conclusion, Contradiction)
        yield f"No single commit makes {key}: the answers contradict each other"


def _reverted(found: Bisection, about: About) -> Iterator[str]:
    for commit, came_to in found.reverts.items():
        yield f"{about(commit)}: {came_to}"
    if found.culprit and not found.found:
        yield f"so it is {about(found.culprit)}, as far as a revert tells"


def how_sure(sure: Sure, answers: Sequence[Answer]) -> Iterator[str]:
    """Yield where the rate and the confidence come from."""
    if sure.looks > 1:
        yield f"{sure.shown} of {sure.looks} boots of the bad end showed it, so that a bad"
        yield f"kernel shows it in {sure.rate:.1%} of its boots, or more (one-sided interval of"
        yield "Clopper and Pearson)."
    else:
        yield f"A bad kernel was taken to show it in {sure.rate:.1%} of its boots, or more."
    runs = [a.runs for a in answers if a.outcome is Outcome.GOOD and a.runs]
    if runs:
        yield f"Good answers: {len(runs)}, each of {min(runs)} boots or more without it."
    yield f"That all are right has a chance of {sure.confidence:.1%}, or more: it is 1 less"
    yield "the doubt about the rate, and less (1 - rate) ** boots for each of them."


def _windows(found: Bisection, first: Sight) -> Iterator[str]:
    after = occurs(found.sought.key, first.findings or ()) or found.sought
    for parent in found.parents:
        title = f"Before, at {parent.commit[:12]}"
        if parent.findings is None:
            yield from section(title, [f"not testable: {parent.reason}"])
        else:
            yield from section(title, excerpt(parent.file, after))
    yield from section(f"After, at {first.commit[:12]}", excerpt(first.file, after))


def _tested(found: Bisection, about: About) -> Iterator[str]:
    """Yield each answer and, as comments, why; it replays as a git bisect log."""
    question = found.question
    yield f"git bisect start {question.bad} {question.good}"
    for answer in found.answers:
        no_op = answer.commit in found.no_ops
        yield f"# {_why(answer, about, no_op=no_op)}"[:_WIDTH]
        yield f"git bisect {answer.outcome} {answer.commit}"


def _why(answer: Answer, about: About, *, no_op: bool) -> str:
    words = [f"{answer.outcome}: {about(answer.commit)}"]
    if answer.outcome is Outcome.SKIP or answer.reason:
        words.append(" ".join(answer.reason.split()))
    if no_op:
        words.append("no-op: same bytes as what it is made on")
    elif answer.same_as:
        words.append(f"same bytes as {answer.same_as[:12]}")
    return "; ".join(words)


def _commands(found: Bisection, command: str, step: str) -> Iterator[str]:
    question = found.question
    tools = sorted({a.toolchain for a in found.answers if a.toolchain})
    yield f"# {question.target} of {question.variant}, built in {', '.join(tools)}"
    if question.is_booted:
        yield f"# asked: {question.oracle}"
    yield command
    yield f"git bisect start {question.bad[:12]} {question.good[:12]}"
    yield f"git bisect run {step}"
