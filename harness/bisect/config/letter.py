"""Letter: a search for options as plain text that can be sent to a mailing list."""

from __future__ import annotations

from collections.abc import Iterator

from harness.bisect.answer import Answer
from harness.bisect.config.bisection import ConfigBisection
from harness.bisect.excerpt import excerpt
from harness.bisect.letter import how_sure, section
from harness.bisect.question import occurs
from harness.report import text

FOLLOWS_SHOWN = 20
_WIDTH = 98


def letter(found: ConfigBisection, command: str, step: str) -> str:
    """Return the report; ``command`` was this search, ``step`` judges one .config."""
    return "\n".join(_paragraphs(found, command, step)).rstrip() + "\n"


def _paragraphs(found: ConfigBisection, command: str, step: str) -> Iterator[str]:
    yield from _headline(found)
    if found.follows:
        yield from section("What olddefconfig changes with that", _follows(found))
    yield from section(
        "The finding, with the bad configuration", text.lines(found.sought)
    )
    if found.others:
        yield f"  ({found.others} more findings are new there, too.)"
    yield from _windows(found)
    without = "The bad configuration with the good values of these"
    yield from section(without, [str(found.reverse)])
    if found.question.is_booted:
        yield from section("How sure that is", how_sure(found.sure, found.answers))
    yield from section("What was tested", _tested(found))
    yield from section("To do it again", _commands(found, command, step))


def _headline(found: ConfigBisection) -> Iterator[str]:
    key = found.sought.key
    if not found.found:
        yield f"Untestable options: of each line some make {key}"
    elif len(found.units) == 1:
        yield f"One option of {found.differing} that differ makes {key}"
    else:
        yield (
            f"{len(found.units)} options of {found.differing} that differ make, "
            f"only together, {key}"
        )
    yield ""
    for unit in found.units:
        yield f"  {', or '.join(str(delta) for delta in unit)}"
    yield ""
    yield "Set on the good configuration they make it, and without any one of them it"
    yield "is not there; both were confirmed in empty output directories."


def _follows(found: ConfigBisection) -> Iterator[str]:
    for delta in found.follows[:FOLLOWS_SHOWN]:
        yield str(delta)
    if (more := len(found.follows) - FOLLOWS_SHOWN) > 0:
        yield f"and {more} more"


def _windows(found: ConfigBisection) -> Iterator[str]:
    after = occurs(found.sought.key, found.first.findings or ()) or found.sought
    for unit, sight in zip(found.units, found.without, strict=True):
        title = f"Without {', '.join(delta.symbol for delta in unit)}"
        if sight.findings is None:
            yield from section(title, [f"not testable: {sight.reason}"])
        else:
            yield from section(title, excerpt(sight.file, after))
    yield from section("With all of it", excerpt(found.first.file, after))


def _tested(found: ConfigBisection) -> Iterator[str]:
    yield (
        f"{found.asked} sets of options were asked about, and came to "
        f"{len(found.answers)} configurations:"
    )
    for answer in found.answers:
        yield _told(answer, found.labels.get(answer.commit, ""))[:_WIDTH]


def _told(answer: Answer, label: str) -> str:
    words = [f"{answer.commit[:12]} {answer.outcome}: {label}"]
    if answer.reason:
        words.append(" ".join(answer.reason.split()))
    if answer.same_as:
        words.append(f"same bytes as {answer.same_as[:12]}")
    return "; ".join(words)


def _commands(found: ConfigBisection, command: str, step: str) -> Iterator[str]:
    question = found.question
    yield f"# {question.target} of {question.tree}, built in {question.toolchains[0]}"
    if question.is_booted:
        yield f"# asked: {question.oracle}, on {question.variant}"
    yield command
    yield "# of one configuration: 0 good, 1 bad, 125 nobody can tell, 128 we failed"
    yield step
    yield "# the fragment, for --fragment or scripts/kconfig/merge_config.sh"
    for unit in found.units:
        for delta in unit:
            yield delta.line
