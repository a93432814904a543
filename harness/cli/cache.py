"""``orc-harness cache``: what is kept, how much of it is to go, and what is old."""

from __future__ import annotations

import enum
import math
import re
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from harness import cache, inventory
from harness.cache import cache_dir
from harness.cli import options
from harness.cli.console import OUT, board
from harness.errors import ExitCode, UserError
from harness.inventory import Entry

DAY_S = 86400.0
_UNITS = {"K": 10, "M": 20, "G": 30, "T": 40}


class Action(enum.StrEnum):
    """What to do with the cache."""

    SHOW = "show"
    PRUNE = "prune"
    UPDATE = "update"


def command(
    context: typer.Context,
    action: Annotated[
        Action,
        typer.Argument(
            help="Show what is there, delete some of it, or fetch what Debian has newer."
        ),
    ] = Action.SHOW,
    older_than: Annotated[
        float | None,
        typer.Option(
            "--older-than",
            metavar="DAYS",
            min=0,
            help="Prune what was not used for longer.",
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="SIZE", help="Prune the oldest until this is left: 20G."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be pruned.")
    ] = False,
    output: options.FormatOption = options.Format.TEXT,
) -> None:
    """Show what the cache holds; prune it by age and size; update what is Debian's.

    Everything in it can be made again, except what is kept: the store of runs, and
    the state of bisections. Nothing is pruned while somebody builds or boots, and
    nothing that was used within the last hour. What is there is used as it is, until
    update looks for newer sources of Debian's, and newer packages in the images.
    """
    root = cache_dir()
    if action is not Action.PRUNE:
        if any(_is_asked(context, name) for name in ("older_than", "to", "dry_run")):
            raise UserError(
                f"{action} takes no --older-than, --to or --dry-run",
                hint="orc-harness cache prune --older-than 30 deletes",
            )
        if action is Action.SHOW:
            _show(inventory.entries(root), output)
        else:
            _update(root, output)
        return
    if older_than is None and to is None:
        raise UserError(
            "prune what?", hint="--older-than DAYS, --to SIZE (20G), or both"
        )
    if older_than is not None and math.isnan(older_than):
        raise UserError("--older-than nan is no number of days")
    gone = inventory.prune(
        root,
        older_s=None if older_than is None else older_than * DAY_S,
        to_bytes=None if to is None else parse_size(to),
        dry=dry_run,
    )
    if output is options.Format.JSON:
        OUT.out(options.to_json(gone), end="")
        return
    for entry in gone:
        OUT.print(f"{entry.kind}: {entry.path} {_mb(entry.size_bytes)}", markup=False)
    what = "would be pruned" if dry_run else "pruned"
    total = sum(entry.size_bytes for entry in gone)
    OUT.print(f"{len(gone)} entries {what}, {_mb(total)}", markup=False)


def _is_asked(context: typer.Context, name: str) -> bool:
    # on the command line: what the config file says is for prune
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _update(root: Path, output: options.Format) -> None:
    from harness.container.engine import connect
    from harness.corpus import built
    from harness.stages import refresh

    sources = {one.package: one.toolchain for one in built.chosen("", nightly=True)}
    with cache.alone(root, "update"), connect() as engine, board() as lines:
        done = refresh.refresh(engine, sources, lines("update"))
    if output is options.Format.JSON:
        OUT.out(options.to_json(done), end="")
    else:
        for one in done:
            what = one.error or ", ".join(one.changes) or "nothing is newer"
            OUT.print(f"{one.what}: {what}", markup=False)
        if not done:
            OUT.print("nothing of Debian's is here yet: what is fetched will be new")
    if any(one.error for one in done):
        raise typer.Exit(ExitCode.INFRASTRUCTURE)


def parse_size(text: str) -> int:
    """Return bytes: a number with K, M, G or T behind it.

    Raises:
        UserError: it is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)(?:I?B)?", text.strip().upper())
    if match is None:
        raise UserError(f"--to {text!r} is no size", hint="such as 500M or 20G")
    return int(float(match[1]) * (1 << _UNITS.get(match[2], 0)))


def _show(found: list[Entry], output: options.Format) -> None:
    kinds = inventory.kinds(found)
    if output is options.Format.JSON:
        OUT.out(options.to_json(kinds), end="")
        return
    table = Table("kind", "entries", "size", "oldest")
    for name in (1, 2, 3):
        table.columns[name].justify = "right"
    now = time.time()
    for kind in kinds:
        days = f"{(now - kind.oldest) / DAY_S:.1f} days"
        table.add_row(kind.name, str(kind.entries), _mb(kind.size_bytes), days)
    OUT.print(table)
    total = sum(kind.size_bytes for kind in kinds)
    OUT.print(f"{cache_dir()}: {_mb(total)}", markup=False)


def _mb(size: int) -> str:
    return f"{size >> 20:,} MB"
