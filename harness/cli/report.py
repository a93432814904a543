"""``orc-harness report``: a saved result, again or as another document."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.console import OUT
from harness.cli.options import Format
from harness.cli.outcome import show
from harness.report.junit import to_junit
from harness.result import load


class Document(enum.StrEnum):
    """What a result can be printed as."""

    TEXT = "text"
    JSON = "json"
    JUNIT = "junit"


def command(
    result: Annotated[
        Path, typer.Argument(help="result.json of a run, or the directory it is in.")
    ] = Path("report"),
    output: Annotated[
        Document, typer.Option("--format", help="What to print it as.")
    ] = Document.TEXT,
) -> None:
    """Print a saved result; exit as its run did."""
    saved = load(result / "result.json" if result.is_dir() else result)
    if output is Document.JUNIT:
        OUT.out(to_junit(saved).decode().rstrip())
    else:
        show(saved, Format(output.value))
    raise typer.Exit(saved.exit_code)
