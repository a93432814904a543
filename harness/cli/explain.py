"""``orc-harness explain``: a finding's rule, its evidence, what is known about it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from harness.cli import options
from harness.cli.console import OUT, board
from harness.cli.entry import paragraph, show
from harness.errors import ExitCode
from harness.report import text
from harness.report.rules import Rule
from harness.stages import explain

REPORT = Path("report")


def command(
    key: Annotated[
        str,
        typer.Argument(help="A finding's key, a pattern with *, or a rule's name."),
    ],
    builds: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[BUILD...]",
            help="Where its evidence is: kernel builds, files, or results of runs. "
            "Default: report/, if there is one.",
        ),
    ] = None,
    known: options.KnownOption = None,
    output: options.FormatOption = options.Format.TEXT,
) -> None:
    """Explain a finding: its rule, its evidence, and what is known about it."""
    where = builds or [p for p in (REPORT,) if (p / "result.json").is_file()]
    with board() as lines:
        found = explain.explain(key, where, known or (), lines("explain"))
    missing = ":" in key and bool(where) and not (found.findings or found.known)
    _print(found, where, output)
    if missing:
        raise typer.Exit(ExitCode.USAGE)


def _print(
    found: explain.Explanation, where: Sequence[Path], output: options.Format
) -> None:
    if output is options.Format.JSON:
        OUT.out(options.to_json(found), end="")
        return
    _print_rule(found.rule)
    for entry in found.known:
        show(entry)
    for finding in found.findings:
        OUT.print("\n".join(text.lines(finding)) + "\n", markup=False)
    if where and not found.findings:
        OUT.print(f"not found in {', '.join(map(str, where))}", markup=False)


def _print_rule(rule: Rule) -> None:
    OUT.print(f"[bold]{escape(rule.name)}[/bold]")
    for sentence in rule.texts:
        OUT.print(f"  > {sentence}", markup=False)
    for words in rule.meaning:
        paragraph(words)
    if rule.action:
        paragraph(f"What to do: {rule.action}")
    if rule.source:
        paragraph(f"Source: {rule.source}")
    OUT.print()
