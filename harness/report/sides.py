"""Sides: what readbacks came to, platforms side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.markup import escape
from rich.table import Table

from harness.result import Stage, StageResult

BYTES, WON = "readback ", "won "
_TOTALS = {
    "text_bytes": "bytes of text",
    "text_differing": "not as linked",
    "text_unexplained": "unexplained",
    "text_later_unexplained": "unexplained later",
}


def read_back(stages: Iterable[StageResult]) -> list[StageResult]:
    """Return the stages of ``stages`` that read a kernel back."""
    return [s for s in stages if s.stage is Stage.READBACK and "text_bytes" in s.counts]


def table(stages: Sequence[StageResult], *, whole: bool) -> Table:
    """Return a column per readback: bytes by step, then sites by variant that won.

    Unless it is to be the ``whole``, only the sites of which they differ.
    """
    drawn = Table(title="text read back", expand=False)
    drawn.add_column("", no_wrap=True)
    for stage in stages:
        drawn.add_column(stage.variant, justify="right", no_wrap=True)
    for name, words in _TOTALS.items():
        drawn.add_row(words, *_cells(stages, name))
    for title, lead in (("bytes explained by", BYTES), ("sites", WON)):
        drawn.add_section()
        drawn.add_row(f"[bold]{title}[/bold]")
        for name in _names(stages, lead):
            cells = _cells(stages, name)
            if whole or lead == BYTES or len(set(cells)) > 1:
                drawn.add_row(escape(name.removeprefix(lead)), *cells)
    return drawn


def _names(stages: Iterable[StageResult], lead: str) -> list[str]:
    """Return the counts that begin with ``lead``, in the order of the first to have each."""
    names = [name for stage in stages for name in stage.counts if name.startswith(lead)]
    return list(dict.fromkeys(names))


def _cells(stages: Iterable[StageResult], name: str) -> list[str]:
    return [f"{s.counts[name]:,}" if name in s.counts else "-" for s in stages]
