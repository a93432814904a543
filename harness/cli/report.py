"""``orc-harness report``: a saved result, again or as another document."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

from harness.cli import options, saved
from harness.cli.console import OUT
from harness.cli.options import Format
from harness.cli.outcome import show
from harness.report.junit import to_junit


class Document(enum.StrEnum):
    """What a result can be printed as."""

    TEXT = "text"
    JSON = "json"
    JUNIT = "junit"


def command(
    result: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="A result.json, the directory it is in, or a run in the store.",
        ),
    ] = "report/",
    store: options.HistoryOption = saved.DEFAULT,
    output: Annotated[
        Document, typer.Option("--format", help="What to print it as.")
    ] = Document.TEXT,
) -> None:
    """Print a saved result; exit as its run did."""
    run = saved.find(result, store)
    if output is Document.JUNIT:
        OUT.out(to_junit(run).decode().rstrip())
    else:
        show(run, Format(output.value))
    raise typer.Exit(run.exit_code)
