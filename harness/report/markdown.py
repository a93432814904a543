"""Markdown: a run as mail and merge requests show it, readable without being drawn."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from harness.finding import Finding
from harness.report import text
from harness.result import RunResult, StageResult, legible

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~])")
_TICKS = re.compile(r"`+")


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
    without = list(text.problems(result.stages))
    if without:
        yield from ("", "## No verdict", "", *_block(without))
    yield from _findings(result.stages)
    yield from _known(result.stages)


def _matrix(result: RunResult) -> Iterator[str]:
    columns = text.columns(result.stages)
    yield _row(["variant", *(stage.value for stage in columns)])
    yield _row(["---"] * (len(columns) + 1))
    for variant, stages in text.rows(result.stages):
        cells = (_cell(stages.get(stage)) for stage in columns)
        yield _row([escape(variant), *cells])


def _cell(stage: StageResult | None) -> str:
    if stage is None:
        return "-"
    new = f", {len(stage.findings)} new" if stage.findings else ""
    return f"{stage.status}{new}, {stage.seconds:.1f} s"


def _findings(stages: Iterable[StageResult]) -> Iterator[str]:
    where: dict[str, tuple[Finding, list[str]]] = {}
    for stage in stages:
        for finding in stage.findings:
            _, variants = where.setdefault(finding.key, (finding, []))
            variants.append(f"{stage.variant} {stage.stage}")
    if where:
        yield from ("", "## New findings")
    for finding, variants in where.values():
        yield ""
        yield f"### {_code(finding.rule)} at {_code(str(finding.location))}"
        yield ""
        yield f"In {', '.join(map(escape, variants))}."
        yield ""
        yield from _block(list(text.lines(finding)))


def _known(stages: Iterable[StageResult]) -> Iterator[str]:
    keys = dict.fromkeys(finding.key for stage in stages for finding in stage.known)
    if keys:
        yield from ("", "## Known findings", "")
        yield from (f"- {_code(key)}" for key in keys)


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
