"""``orc-harness baseline``: what is wrong and known to be, listed and added to."""

from __future__ import annotations

import datetime
import enum
from typing import Annotated

import typer

from harness import baseline
from harness.cli import options
from harness.cli.console import OUT
from harness.cli.entry import show
from harness.errors import UserError
from harness.report.rules import find_rule


class Action(enum.StrEnum):
    """What to do with the baseline."""

    ADD = "add"
    LIST = "list"


def command(
    action: Annotated[Action, typer.Argument(help="Add one entry, or list them all.")],
    key: Annotated[
        str | None,
        typer.Argument(help="The finding's key; * stands for what a rebuild changes."),
    ] = None,
    reason: Annotated[
        str | None,
        typer.Option("--reason", help="What is wrong, and why it is the kernel."),
    ] = None,
    link: Annotated[
        str | None, typer.Option("--link", help="Where it is discussed or fixed.")
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option("--expires", metavar="DATE", help="Its last day, YYYY-MM-DD."),
    ] = None,
    affected: Annotated[
        str, typer.Option("--affected", help="The kernels that have it.")
    ] = "",
    evidence: Annotated[
        list[str] | None,
        typer.Option("--evidence", help="A kernel file and line (repeatable)."),
    ] = None,
    known: options.KnownOption = None,
    output: options.FormatOption = options.Format.TEXT,
) -> None:
    """Keep findings that are looked into from being new; every entry expires.

    add writes to the first --known directory, else to your own
    (~/.config/orc-harness/known); validate reads both and what comes with us.
    """
    if action is Action.LIST:
        _list(baseline.load_all(known or ()), output)
        return
    given = {"KEY": key, "--reason": reason, "--link": link, "--expires": expires}
    if missing := [name for name, value in given.items() if not (value or "").strip()]:
        raise UserError(
            f"baseline add lacks {', '.join(missing)}",
            hint="orc-harness baseline add KEY --reason TEXT --link URL "
            "--expires 2027-01-31",
        )
    entry = baseline.Known(
        key or "",
        reason or "",
        tuple(evidence or ()),
        link or "",
        affected,
        _day(expires or ""),
    )
    find_rule(entry.key)  # there is to be one
    directory = known[0] if known else baseline.own_directories()[0]
    path = baseline.add(entry, directory)
    if output is options.Format.JSON:
        OUT.out(options.to_json([entry]), end="")
    else:
        OUT.print(f"wrote {path}", markup=False)


def _day(text: str) -> datetime.date:
    try:
        day = datetime.date.fromisoformat(text)
    except ValueError as exc:
        raise UserError(
            f"--expires {text} is no date", hint="YYYY-MM-DD, such as 2027-01-31"
        ) from exc
    today = datetime.datetime.now(datetime.UTC).date()
    if day < today:
        raise UserError(f"--expires {day} has passed, today is {today}")
    return day


def _list(entries: tuple[baseline.Known, ...], output: options.Format) -> None:
    if output is options.Format.JSON:
        OUT.out(options.to_json(entries), end="")
        return
    for entry in entries:
        show(entry)
