"""Text: results as a person reads them in a terminal, at most 100 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from harness.errors import ExitCode
from harness.finding import Finding
from harness.report.alike import Alike
from harness.result import RunResult, Stage, StageResult, Status

WIDEST = 100  # columns of a terminal

# What the table shows of a stage's counts; JSON and JUnit have them all.
_SHOWN = {
    Stage.BUILD: ("compiled", "modules"),
    Stage.VALIDATE: (
        "files",
        "from cache",
        "one by one",
        "not followed edges",
        "orc entries",
        "sites",
        "variants",
        "boundaries",
    ),
    Stage.BOOT: ("syscalls", "faults", "timers", "modules", "stacks"),
    Stage.READBACK: (
        "text_bytes",
        "text_differing",
        "text_unexplained",
        "text_control",
        "text_later_unexplained",
    ),
    Stage.COMPARE: (
        "points",
        "entry_context",
        "inside_replacement",
        "inside_other_cfa",
        "tasks_asked",
        "control_reported",
        "proc_traces",
        "console_traces",
        "entries",
        "controls_reported",
        "differ",
    ),
    Stage.SHADOW: (
        "verified",
        "instructions",
        "mismatches",
        "undecided",
        "control_seen",
    ),
}
_STYLE = {
    Status.PASS: "green",
    Status.FAIL: "bold red",
    Status.ERROR: "bold magenta",
    Status.MISS: "yellow",
    Status.SKIP: "dim",
}

_MOST = 8  # findings that are only named beside one that says the same


def table(result: RunResult) -> RenderableType:
    """Return the matrix: a row per variant and a column per stage.

    What all variants have covered together is not in it (:mod:`.covered`).

    Where that is too wide it is a row per stage, and as many tables as the variants
    take.
    """
    stages = columns(result.stages)
    variants = [(escape(name), of) for name, of in rows(result.stages)]
    title = f"orc-harness {result.profile}: {result.tree}"
    names = ["variant", *(name for name, _ in variants)]
    by_stage = [
        [stage.value, *(_cell(of.get(stage)) for _, of in variants)] for stage in stages
    ]
    if _width([names, *by_stage]) <= WIDEST:
        return _drawn([names, *by_stage], title)
    first = ["stage", *(stage.value for stage in stages)]
    parts = [[first]]
    for name, of in variants:
        column = [name, *(_cell(of.get(stage)) for stage in stages)]
        if len(parts[-1]) > 1 and _width([*parts[-1], column]) > WIDEST:
            parts.append([first])
        parts[-1].append(column)
    return Group(
        *(_drawn(p, title if p is parts[0] else "", lines=True) for p in parts)
    )


def _width(columns: Sequence[Sequence[str]]) -> int:
    """Return how wide a table of ``columns`` is, frame included."""
    return 1 + sum(
        3 + max(len(line) for cell in column for line in _plain(cell).splitlines())
        for column in columns
    )


def _plain(cell: str) -> str:
    return Text.from_markup(cell).plain


def _drawn(
    columns: Sequence[Sequence[str]], title: str, *, lines: bool = False
) -> Table:
    drawn = Table(title=title or None, expand=False, show_lines=lines)
    for number, (head, *_) in enumerate(columns):
        drawn.add_column(head, style=None if number else "bold", no_wrap=True)
    for row in zip(*(cells for _, *cells in columns), strict=True):
        drawn.add_row(*row)
    return drawn


def columns(stages: Iterable[StageResult]) -> list[Stage]:
    """Return the stages that variants went through, in order."""
    done = {stage.stage for stage in stages} - {Stage.COVERAGE}
    return [stage for stage in Stage if stage in done]


def rows(
    stages: Iterable[StageResult],
) -> Iterator[tuple[str, dict[Stage, StageResult]]]:
    """Yield the stages of each row; a stage that comes again starts a new one.

    What is of all variants has none, nor has what no machine of ours is for.
    """
    variant, row = "", dict[Stage, StageResult]()
    for stage in stages:
        if stage.stage is Stage.COVERAGE or stage.elsewhere:
            continue
        if row and (stage.variant != variant or stage.stage in row):
            yield variant, row
            row = {}
        variant = stage.variant
        row[stage.stage] = stage
    if row:
        yield variant, row


def _cell(stage: StageResult | None) -> str:
    if stage is None:
        return "-"
    style = _STYLE[stage.status]
    lines = [f"[{style}]{stage.status}[/{style}] {stage.seconds:.1f} s"]
    lines += [
        f"{escape(name.replace('_', ' '))} {stage.counts[name]:,}"
        for name in _SHOWN[stage.stage]
        if name in stage.counts
    ]
    if stage.status in (Status.PASS, Status.FAIL):
        lines.append(f"new {len(stage.findings)}, known {len(stage.known)}")
    return "\n".join(lines)


def lines(finding: Finding) -> Iterator[str]:
    """Yield a finding as people act on it: what, both sides, evidence, command."""
    return told(Alike(finding))


def told(alike: Alike) -> Iterator[str]:
    """Yield findings that say the same as one, and where the others are."""
    finding = alike.first
    where = f"{finding.location.object}: {finding.location}"
    if finding.location.line:
        where += f" ({finding.location.line})"
    times = f" [{alike.places} places]" if alike.places > 1 else ""
    yield f"{where}: {finding.message}{times}"
    facts = {
        "rule": finding.rule,
        "variant": finding.variant,
        "platforms": ", ".join(finding.platforms),
        "declared": finding.declared,
        "actual": finding.actual,
        "blame": finding.blame,
    }
    yield from (f"  {name:9} {value}" for name, value in facts.items() if value)
    yield from (f"  {'seen by':9} {told}" for told in finding.seen)
    for entry in finding.expired:
        yield from _wrapped("expired", entry)
    yield from (f"  {line}" for line in finding.window)
    yield f"  key       {finding.key}"
    if finding.reproduce:
        yield f"  reproduce {finding.reproduce}"
    yield from (
        f"  alike     {one.location}: {one.key}" for one in alike.others[:_MOST]
    )
    if (more := len(alike.others) - _MOST) > 0:
        yield f"  alike     {more} more, all of which --format json has"


def _wrapped(name: str, words: str) -> Iterator[str]:
    yield from textwrap.wrap(
        words,
        WIDEST,
        initial_indent=f"  {name:9} ",
        subsequent_indent=" " * 12,
        break_long_words=False,
        break_on_hyphens=False,
    )


def problems(stages: Iterable[StageResult]) -> Iterator[str]:
    """Yield why stages have no verdict, one line each and its remedy.

    Those that no machine of ours is for are one line together.
    """
    nowhere: dict[str, list[str]] = {}
    for stage in stages:
        if stage.elsewhere:
            nowhere.setdefault(stage.reason, []).append(stage.variant)
        elif stage.status in (Status.ERROR, Status.MISS, Status.SKIP):
            yield f"{stage.status} {stage.variant} {stage.stage}: {stage.reason}"
            if stage.hint:
                yield f"  hint: {stage.hint}"
            if stage.exit_code == ExitCode.INTERNAL:
                yield from (f"  {note}" for note in stage.notes)
    if nowhere:
        told = (f"{', '.join(names)} ({why})" for why, names in nowhere.items())
        yield f"{Status.MISS} boot, no such machine: {'; '.join(told)}"


def summary(result: RunResult) -> str:
    """Return the closing line: counts of what is new, known and without verdict.

    What several stages found is one finding here; in the table each has its own.
    """
    new = {finding.key for stage in result.stages for finding in stage.findings}
    known = {finding.key for stage in result.stages for finding in stage.known}
    none = sum(
        stage.status in (Status.ERROR, Status.MISS, Status.SKIP)
        for stage in result.stages
        if not stage.elsewhere
    )
    return (
        f"{len(new)} new findings, {len(known)} known causes, "
        f"{none} stages without a verdict, {result.seconds:.1f} s"
    )
