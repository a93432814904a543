"""Entry: one of the baseline, as a person reads it."""

from __future__ import annotations

import textwrap
from datetime import UTC, datetime

from rich.markup import escape

from harness.baseline import Known
from harness.cli.console import OUT

WIDTH = 100


def show(entry: Known) -> None:
    """Print ``entry``: nothing of it is cut, so that a key can be copied."""
    over = entry.expires < datetime.now(UTC).date()
    state = "[bold red]was known[/bold red]" if over else "[bold]known[/bold]"
    OUT.print(f"{state} until {entry.expires}: {escape(entry.key)}")
    paragraph(entry.reason)
    facts = {
        "also": entry.also,
        "evidence": entry.evidence,
        "link": (entry.link,),
        "affected": (entry.affected,),
    }
    for name, values in facts.items():
        for value in filter(None, values):
            OUT.print(f"  {name:9} {value}", markup=False)
    OUT.print()


def paragraph(words: str) -> None:
    """Print ``words``, indented and wrapped."""
    wrapped = textwrap.wrap(" ".join(words.split()), min(WIDTH, OUT.width) - 2)
    OUT.print(textwrap.indent("\n".join(wrapped), "  "), markup=False)
