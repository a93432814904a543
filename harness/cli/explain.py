"""``orc-harness explain``: a finding's rule, its evidence, what is known about it."""

from __future__ import annotations

import textwrap
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from harness.baseline import Known
from harness.cli import options
from harness.cli.console import OUT, board
from harness.report import text
from harness.report.rules import Rule
from harness.stages import explain

REPORT = Path("report")
WIDTH = 100


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
    if output is options.Format.JSON:
        OUT.out(options.to_json(found), end="")
        return
    _print_rule(found.rule)
    for entry in found.known:
        _print_known(entry)
    for finding in found.findings:
        OUT.print("\n".join(text.lines(finding)) + "\n", markup=False)
    if where and not found.findings:
        OUT.print(f"not found in {', '.join(map(str, where))}", markup=False)


def _print_rule(rule: Rule) -> None:
    OUT.print(f"[bold]{escape(rule.name)}[/bold]")
    for sentence in rule.texts:
        OUT.print(f"  > {sentence}", markup=False)
    for paragraph in rule.meaning:
        _paragraph(paragraph)
    if rule.action:
        _paragraph(f"What to do: {rule.action}")
    if rule.source:
        _paragraph(f"Source: {rule.source}")
    OUT.print()


def _print_known(entry: Known) -> None:
    over = entry.expires < datetime.now(UTC).date()
    state = "[bold red]was known[/bold red]" if over else "[bold]known[/bold]"
    OUT.print(f"{state} until {entry.expires}: {escape(entry.key)}")
    _paragraph(" ".join(entry.reason.split()))
    for line in entry.evidence:
        OUT.print(f"  evidence  {line}", markup=False)
    OUT.print(f"  link      {entry.link}", markup=False)
    OUT.print(f"  affected  {entry.affected}\n", markup=False)


def _paragraph(words: str) -> None:
    wrapped = textwrap.wrap(words, min(WIDTH, OUT.width) - 2)
    OUT.print(textwrap.indent("\n".join(wrapped), "  "), markup=False)
