"""Chronicle: several runs as a person reads them in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.markup import escape
from rich.table import Table

from harness.errors import ExitCode
from harness.history.diff import Change, Diff
from harness.history.summary import Summary
from harness.history.trend import Trend, sparkline

_VERDICT: dict[int, str] = {
    ExitCode.CLEAN: "[green]clean[/green]",
    ExitCode.FINDINGS: "[bold red]findings[/bold red]",
}
_ERROR = "[bold magenta]error[/bold magenta]"


def run_table(runs: Iterable[Summary]) -> Table:
    """Return a row per run; when it started is in its name."""
    drawn = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for title in ("run", "profile", "verdict"):
        drawn.add_column(title, no_wrap=True)
    for title in ("new", "known", "judged", "seconds"):
        drawn.add_column(title, justify="right", no_wrap=True)
    drawn.add_column("tree", overflow="fold", min_width=12)
    for run in runs:
        drawn.add_row(
            escape(run.run_id),
            escape(run.profile),
            _VERDICT.get(run.exit_code, _ERROR),
            str(run.new),
            str(run.known),
            f"{run.judged}/{run.stages}",
            f"{run.seconds:.1f}",
            escape(run.tree),
        )
    return drawn


def trend_table(trends: Sequence[Trend], runs: int) -> Table | str:
    """Return a row per number that moved; those that never did have nothing to say.

    If none of the ``runs`` moved any, that is a sentence: runs that took over the same
    cells have the same numbers, down to their seconds.
    """
    if not any(trend.moved for trend in trends):
        return f"no number moved (runs: {runs}, numbers: {len(trends)})"
    drawn = Table()
    for title in ("variant", "stage", "number"):  # names give way, numbers do not
        drawn.add_column(title, overflow="fold", min_width=len(title))
    for title in ("first", "last", "lowest", "highest"):
        drawn.add_column(title, justify="right", no_wrap=True)
    drawn.add_column("runs", no_wrap=True)
    for trend in trends:
        if trend.moved:
            values = trend.values
            shown = (values[0], values[-1], min(values), max(values))
            drawn.add_row(
                escape(trend.variant),
                trend.stage.value,
                escape(trend.name),
                *map(number, shown),
                sparkline(values),
            )
    return drawn


def number(value: float) -> str:
    """Spell ``value``: whole numbers whole, others with two digits."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,.2f}"


def changes(diff: Diff) -> Iterator[str]:
    """Yield a line for each finding of either run, and how many there are of what."""
    yield from _lines("new", diff.new)
    yield from _lines("known", diff.known)
    yield from gone(diff)
    before, after = diff.trees
    if before != after:
        yield f"{diff.before} is of {before}"
        yield f"{diff.after} is of {after}"
    yield _sum(diff)


def gone(diff: Diff) -> Iterator[str]:
    """Yield a line for each finding that the later run has not."""
    yield from _lines("fixed", diff.fixed)
    yield from _lines("unseen", diff.unseen)


def against(diff: Diff) -> Iterator[str]:
    """Yield what a run that was judged against another has to say about that."""
    yield from gone(diff)
    yield f"{diff.before} is of {diff.trees[0]}"
    yield f"against {_sum(diff)}"


def _lines(group: str, changes: Iterable[Change]) -> Iterator[str]:
    for change in changes:
        excused = " (excused)" if change.excused else ""
        where = ", ".join(change.variants)
        yield f"{group:6} {change.finding.key} [{where}]{excused}"


def _sum(diff: Diff) -> str:
    groups = {
        "new": diff.new,
        "known": diff.known,
        "fixed": diff.fixed,
        "unseen": diff.unseen,
    }
    numbers = ", ".join(f"{len(found)} {group}" for group, found in groups.items())
    return f"{diff.before} -> {diff.after}: {numbers}"
