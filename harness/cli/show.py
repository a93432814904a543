"""``orc-harness show``: code beside its ORC table, one column per variant."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from harness.cli import options
from harness.cli.console import OUT
from harness.stages import inspect
from harness.verify.listing import Cell, Line, SiteListing

BYTES_SHOWN = 8
AROUND = 16  # parts of a function on each side of the offset that was asked for
PIPE_COLUMNS = 136  # a listing is wider than what people read


def command(
    place: Annotated[
        str,
        typer.Argument(
            metavar="SYMBOL[+OFF]", help="A function, a place in it, or an address."
        ),
    ],
    of: Annotated[
        Path,
        typer.Option("--of", help="The file or the kernel build that has it."),
    ] = Path("vmlinux"),
    output: options.FormatOption = options.Format.TEXT,
) -> None:
    """Show code as the unwinder sees it: bytes, text, the ORC state, what follows.

    An alternative site has a column for each text and the platforms that run it.
    An arrow marks findings, a star the offset that was asked for.
    """
    shown = inspect.show(of, place)
    if output is options.Format.JSON:
        OUT.out(options.to_json(shown), end="")
        return
    listing = shown.listing
    where = f"{listing.size} bytes at {listing.address:#x}"
    OUT.print(f"{listing.object}: {listing.symbol}, {where}", markup=False)
    width = OUT.width if OUT.is_terminal else PIPE_COLUMNS
    for table in _tables(shown):
        OUT.print(table, width=width)
    for finding in shown.findings:
        OUT.print(f"-> {finding.location}: {finding.message}", markup=False)
        OUT.print(f"   orc-harness explain '{finding.key}'", markup=False)
    for note in shown.notes:
        OUT.print(f"note: {note}", markup=False)


def _tables(shown: inspect.Shown) -> Iterator[Table]:
    """Yield a table per site and per stretch of plain code between them."""
    lines: list[Line] = []
    for part in _around(shown.listing.parts, shown.asked):
        if isinstance(part, Line):
            lines.append(part)
            continue
        if lines:
            yield _lines(lines, shown)
        lines = []
        yield _site(part, shown)
    if lines:
        yield _lines(lines, shown)


def _around(
    parts: tuple[Line | SiteListing, ...], asked: int | None
) -> tuple[Line | SiteListing, ...]:
    if asked is None:
        return parts
    at = sum(part.offset <= asked for part in parts) - 1
    return parts[max(0, at - AROUND) : at + AROUND + 1]


def _lines(lines: list[Line], shown: inspect.Shown) -> Table:
    table = _table(
        ("", 2), ("address", 16), ("bytes", 23), ("", 28), ("ORC", 20), ("then", 10)
    )
    for line in lines:
        after = escape(line.after)
        table.add_row(
            _mark(line.offset, line.offset + len(line.code.split()), shown),
            f"{line.address & 0xFFFFFFFF:08x} +{line.offset:#x}",
            _bytes(line.code),
            escape(line.text),
            line.state,
            after if line.fits else f"[yellow]{after}[/yellow]",
        )
    return table


def _site(site: SiteListing, shown: inspect.Shown) -> Table:
    heads = (
        (f"{escape(text.label)}\n[dim]{' '.join(text.platforms)}[/dim]", 20)
        for text in site.texts
    )
    table = _table(("", 2), (f"site of {site.length}", 16), *heads, ("ORC", 20))
    for row in site.rows:
        offset = site.offset + row.offset
        table.add_row(
            _mark(offset, offset + 1, shown),
            f"+{offset:#x} [dim]+{row.offset:#x}[/dim]",
            *(_cell(cell, row.state) for cell in row.cells),
            row.state,
        )
    return table


def _cell(cell: Cell | None, state: str) -> str:
    """Draw an instruction, and its true state where it is not the table's."""
    if cell is None:
        return ""
    text = escape(cell.text)
    if cell.state == state:
        return text
    if not cell.state:  # no path comes here
        return f"[dim]{text}[/dim]"
    return f"{text} [bold red]{escape(cell.state)}[/bold red]"


def _table(*columns: tuple[str, int]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for head, width in columns:
        table.add_column(head, min_width=width)
    return table


def _mark(first: int, end: int, shown: inspect.Shown) -> str:
    if any(first <= f.location.offset < end for f in shown.findings):
        return "[bold red]->[/bold red]"
    return "*" if shown.asked is not None and first <= shown.asked < end else ""


def _bytes(code: str) -> str:
    parts = code.split()
    return " ".join(parts[:BYTES_SHOWN]) + (" .." if len(parts) > BYTES_SHOWN else "")
