"""``orc-harness report``: a saved result, again or as another document."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

from harness.cli import options, saved
from harness.cli.console import OUT
from harness.cli.options import Format
from harness.cli.outcome import show
from harness.result import RunResult


class Document(enum.StrEnum):
    """What a result can be printed as."""

    TEXT = "text"
    JSON = "json"
    JUNIT = "junit"
    KTAP = "ktap"
    KCIDB = "kcidb"
    SARIF = "sarif"
    MARKDOWN = "markdown"
    HTML = "html"


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
    origin: Annotated[
        str, typer.Option("--origin", help="Who reports, for --format kcidb.")
    ] = "orc_harness",
) -> None:
    """Print a saved result; exit as its run did."""
    run = saved.find(result, store)
    if output in (Document.TEXT, Document.JSON):
        show(run, Format(output.value))
    else:
        OUT.out(_document(run, output, origin, store).rstrip())
    raise typer.Exit(run.exit_code)


def _document(run: RunResult, output: Document, origin: str, store: str) -> str:
    """Return ``run`` as ``output``, whose module is imported only now."""
    match output:
        case Document.JUNIT:
            from harness.report.junit import to_junit

            return to_junit(run).decode()
        case Document.KTAP:
            from harness.report.ktap import to_ktap

            return to_ktap(run)
        case Document.KCIDB:
            from harness.report.kcidb import to_kcidb

            return to_kcidb(run, origin)
        case Document.SARIF:
            from harness.report.sarif import to_sarif

            return to_sarif(run)
        case Document.HTML:
            from harness.report.html import to_html

            return to_html(run, *saved.past(run, store))
        case _:
            from harness.report.markdown import to_markdown

            return to_markdown(run)
