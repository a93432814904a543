"""Outcome: a run's result on stdout: the table, then what to act on."""

from __future__ import annotations

from harness.cli.console import OUT
from harness.cli.options import Format
from harness.report import sides, text
from harness.result import RunResult, dump


def show(result: RunResult, output: Format) -> None:
    """Print ``result`` as ``output``."""
    if output is Format.JSON:
        OUT.out(dump(result).decode(), end="")
        return
    OUT.print(text.table(result))
    if read_back := sides.read_back(result.stages):
        OUT.print(sides.table(read_back))
    for stage in result.stages:
        for finding in stage.findings:
            OUT.print("\n".join(text.lines(finding)) + "\n", markup=False)
    for line in text.problems(result.stages):
        OUT.print(line, markup=False)
    OUT.print(text.summary(result), markup=False)
