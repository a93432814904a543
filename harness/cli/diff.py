"""``orc-harness diff``: two runs told apart by their findings."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli import options, saved
from harness.cli.console import OUT
from harness.errors import ExitCode
from harness.history.diff import diff
from harness.report import chronicle

Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A result.json, the directory it is in, or a run in the store: its name, "
        "the beginning of that, or `last`.",
    ),
]


def command(
    before: Run,
    after: Run = "last",
    store: options.HistoryOption = saved.DEFAULT,
    output: options.FormatOption = options.Format.TEXT,
) -> None:
    """Tell two runs apart: which findings are new, known, fixed or unseen.

    Findings are the same if their keys are: rebuilds and functions that moved make no
    difference. One that is gone is fixed where the later run came to a verdict, and
    unseen where it did not. Exits with 1 if there is a new one that no entry covers.
    """
    found = diff(saved.find(before, store), saved.find(after, store))
    if output is options.Format.JSON:
        OUT.out(options.to_json(found), end="")
    else:
        OUT.print("\n".join(chronicle.changes(found)), markup=False)
    raise typer.Exit(ExitCode.FINDINGS if found.worse else ExitCode.CLEAN)
