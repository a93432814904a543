"""``orc-harness history``: the runs in the store, and what became of their numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli import options, saved
from harness.cli.console import OUT
from harness.errors import UserError
from harness.history.trend import trends
from harness.report import chronicle
from harness.store import past
from harness.store.database import open_existing


def command(
    trend: Annotated[
        bool,
        typer.Option(
            "--trend", help="Counts, coverage, times and findings over those runs."
        ),
    ] = False,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, help="How many of the newest runs.")
    ] = 20,
    key: Annotated[
        str, typer.Option("--key", help="Only runs that have the finding of this key.")
    ] = "",
    profile: Annotated[
        str,
        typer.Option("--profile", help="Only runs of it: small, full, validate, boot."),
    ] = "",
    add: Annotated[
        Path | None,
        typer.Option(
            "--add",
            metavar="RESULT",
            help="Save a result.json, or that of a directory, first.",
            show_default=False,
        ),
    ] = None,
    store: options.HistoryOption = saved.DEFAULT,
    output: options.FormatOption = options.Format.TEXT,
) -> None:
    """List the runs in the store, or what became of their numbers.

    run and validate save there with --store. diff tells two of them apart, report
    prints one again.
    """
    if add:
        saved.add(add, store)
    with open_existing(store) as database:
        runs = past.recent(database, limit, key=key, profile=profile)
        numbers = past.measurements(database, runs) if trend else ()
    if (key or profile) and not runs:
        raise UserError(f"no run in {database.name} has that key or profile")
    if output is options.Format.JSON:
        OUT.out(options.to_json(trends(numbers) if trend else runs), end="")
    elif trend:
        OUT.print(chronicle.trend_table(trends(numbers), len(runs)))
    else:
        OUT.print(chronicle.run_table(runs))
