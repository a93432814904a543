"""Markdown: a run as mail and merge requests show it, readable without being drawn.

It is no longer than they take: what has no room is counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from harness.finding import Finding
from harness.report import text
from harness.report.alike import Alike, alike
from harness.result import RunResult, StageResult, legible

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~])")
_TICKS = re.compile(r"`+")

# Characters of a section: a comment takes 65,536, and shows nothing of what is longer.
_FINDINGS_ROOM = 32_000
_ROOM = 8_000


def to_markdown(result: RunResult) -> str:
    """Return ``result`` as a Markdown document (CommonMark, and tables)."""
    result = legible(result)
    return "\n".join(_document(result)) + "\n"


def _document(result: RunResult) -> Iterator[str]:
    yield f"# orc-harness: {text.summary(result)}"
    yield ""
    yield f"- run: {_code(result.run_id)}, {result.started}, {result.profile}"
    yield f"- tree: {_code(result.tree)}"
    if result.baseline:
        yield f"- against: {_code(result.baseline)}"
    yield from (f"- {name}: {_code(line)}" for name, line in result.tools.items())
    yield ""
    yield from _matrix(result)
    problems = [(line, 1) for line in text.problems(result.stages)]
    if without := list(_fitting(problems, _ROOM, result)):
        yield from ("", "## No verdict", "", *_block(without))
    yield from _findings(result)
    yield from _known(result)


def _matrix(result: RunResult) -> Iterator[str]:
    columns = text.columns(result.stages)
    yield _row(["variant", *(stage.value for stage in columns)])
    yield _row(["---"] * (len(columns) + 1))
    rows = [
        (_row([escape(variant), *(_cell(stages.get(stage)) for stage in columns)]), 1)
        for variant, stages in text.rows(result.stages)
    ]
    yield from _fitting(rows, _ROOM, result)


def _cell(stage: StageResult | None) -> str:
    if stage is None:
        return "-"
    new = f", {len(stage.findings)} new" if stage.findings else ""
    return f"{stage.status}{new}, {stage.seconds:.1f} s"


def _findings(result: RunResult) -> Iterator[str]:
    found: dict[str, Finding] = {}
    where: dict[str, list[str]] = {}
    for stage in result.stages:
        for finding in stage.findings:
            found.setdefault(finding.key, finding)
            where.setdefault(finding.key, []).append(f"{stage.variant} {stage.stage}")
    if found:
        yield from ("", "## New findings")
    told = [
        ("\n".join(_told(each, where)), 1 + len(each.others))
        for each in alike(found.values())
    ]
    yield from _fitting(told, _FINDINGS_ROOM, result)


def _told(each: Alike, where: Mapping[str, Sequence[str]]) -> Iterator[str]:
    first = each.first
    keys = (finding.key for finding in (first, *each.others))
    places = dict.fromkeys(place for key in keys for place in where[key])
    yield ""
    yield f"### {_code(first.rule)} at {_code(str(first.location))}"
    yield ""
    yield f"In {', '.join(map(escape, places))}."
    yield ""
    yield from _block(list(text.told(each)))


def _known(result: RunResult) -> Iterator[str]:
    found = (finding.key for stage in result.stages for finding in stage.known)
    keys = [(f"- {_code(key)}", 1) for key in dict.fromkeys(found)]
    if keys:
        yield from ("", "## Known findings", "")
    yield from _fitting(keys, _ROOM, result)


def _fitting(
    parts: Iterable[tuple[str, int]], room: int, result: RunResult
) -> Iterator[str]:
    """Yield what has ``room``, then how many findings or lines have none."""
    more = 0
    for part, count in parts:
        if len(part) > room:
            more += count
            continue
        room -= len(part) + 1  # its end of line
        yield part
    if more:
        rest = f"`orc-harness report {result.run_id}` and its `report.html` have"
        yield from ("", f"{more:,} more, which {rest}.")


def _block(lines: Sequence[str]) -> Iterator[str]:
    """Yield ``lines`` as code, in a fence that none of them is."""
    fence = _fence("\n".join(lines), 3)
    yield f"{fence}text"
    yield from lines
    yield fence


def _code(value: str) -> str:
    """Return ``value`` as code within a line."""
    value = " ".join(value.split())
    fence = _fence(value, 1)
    space = " " if value.startswith("`") or value.endswith("`") else ""
    return f"{fence}{space}{value}{space}{fence}"


def _fence(value: str, least: int) -> str:
    longest = max((len(ticks) for ticks in _TICKS.findall(value)), default=0)
    return "`" * max(least, longest + 1)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def escape(value: str) -> str:
    """Return ``value`` as words that Markdown leaves alone."""
    return _SPECIAL.sub(r"\\\1", " ".join(value.split()))
