"""Outcome: a run's result on stdout: the table, then what to act on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.character import spelt
from harness.cli import saved
from harness.cli.console import ERR, OUT
from harness.cli.options import Format
from harness.errors import HarnessError
from harness.report import covered, sides, text
from harness.report.alike import alike
from harness.result import RunResult, dump, legible

if TYPE_CHECKING:
    from harness.history.diff import Diff
    from harness.history.trend import Trend


def conclude(
    run: RunResult,
    output: Format,
    *,
    base: saved.Base,
    store: str | None,
    report: Path | None = None,
) -> RunResult:
    """Judge ``run`` against ``base``, print it, and keep it; return what was judged.

    Raises:
        HarnessError: the base cannot be read any more; the run is printed and kept
            all the same, as it is without one.
    """
    failed: HarnessError | None = None
    judged, earlier = run, None
    try:
        judged, earlier = base.judge(run)
    except HarnessError as exc:
        failed = exc
    since = _since(earlier, judged) if earlier else None
    written = _write(judged, report) if report else ()
    show(judged, output)
    if since and output is Format.TEXT:
        _show_base(since)
    kept = saved.save(judged, store)
    if report:
        page = _draw(judged, report, store if kept else None, since)
        if output is Format.TEXT:
            names = ", ".join(map(str, (*written, page)))
            OUT.print(f"wrote {spelt(names)}", markup=False)
    if failed:
        raise failed
    return judged


def show(result: RunResult, output: Format) -> None:
    """Print ``result`` as ``output``."""
    if output is Format.JSON:
        OUT.out(dump(result).decode(), end="")
        return
    result = legible(result)
    OUT.print(text.table(result))
    if read_back := sides.read_back(result.stages):
        alone = len(read_back) == len(result.stages)
        OUT.print(sides.table(read_back, whole=alone))
    if covering := covered.covering(result.stages):
        OUT.print(covered.table(covering))
    for line in covered.hottest(result.stages):
        OUT.print(line, markup=False)
    for stage in result.stages:
        for each in alike(stage.findings):
            OUT.print("\n".join(text.told(each)) + "\n", markup=False)
    for line in text.problems(result.stages):
        OUT.print(line, markup=False)
    OUT.print(text.summary(result), markup=False)


def _write(run: RunResult, report: Path) -> tuple[Path, ...]:
    from harness.report import folder  # its documents take their time to import

    return folder.write(run, report)


def _draw(run: RunResult, report: Path, store: str | None, since: Diff | None) -> Path:
    """Write the page, with what ``store`` knows of the past, or without if it fails."""
    from harness.report import folder

    trends: Sequence[Trend] = ()
    if store:
        try:
            trends, last = saved.past(run, store)
            since = since or last
        except HarnessError as exc:
            ERR.print(f"note: the page has no past: {exc}", markup=False)
    return folder.draw(run, report, trends, since)


def _since(earlier: RunResult, judged: RunResult) -> Diff:
    from harness.history.diff import diff

    return diff(earlier, judged)


def _show_base(since: Diff) -> None:
    from harness.report import chronicle

    for line in chronicle.against(legible(since)):
        OUT.print(line, markup=False)
