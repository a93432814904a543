"""Excerpt: the code around a finding in one commit's file, as lines for a mail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.errors import HarnessError
from harness.finding import Finding
from harness.stages.inspect import show
from harness.verify.listing import Line, SiteListing

AROUND = 5  # instructions on each side
_TEXT = 34


def excerpt(file: Path | None, finding: Finding) -> tuple[str, ...]:
    """Return the code of ``file`` at the place of ``finding``, with its table.

    Where the code is not there a line says so.
    """
    if file is None:
        return ("(there is no such file yet)",)
    try:
        shown = show(file, finding.location.symbol)
    except HarnessError as exc:
        return (f"({exc.message})",)
    parts = shown.listing.parts
    at = sum(part.offset <= finding.location.offset for part in parts) - 1
    near = parts[max(0, at - AROUND) : at + AROUND + 1]
    arrows = {f.location.offset for f in shown.findings if f.rule == finding.rule}
    return tuple(line for part in near for line in _drawn(part, arrows))


def _drawn(part: Line | SiteListing, arrows: set[int]) -> Iterator[str]:
    if isinstance(part, Line):
        yield _line(part.offset, part.text, part.state, arrows)
        return
    yield f"   +{part.offset:#x} site of {part.length} bytes:"
    for number, text in enumerate(part.texts):
        yield f"     {text.label} ({', '.join(text.platforms) or 'nobody'})"
        for row in part.rows:
            if cell := row.cells[number]:
                wrong = cell.state and cell.state != row.state
                state = f"{row.state}, is {cell.state}" if wrong else row.state
                offset = part.offset + row.offset
                yield _line(offset, cell.text, state, {offset} if wrong else set())


def _line(offset: int, text: str, state: str, arrows: set[int]) -> str:
    mark = "->" if offset in arrows else "  "
    return f"{mark} +{offset:<#6x} {text:{_TEXT}} {state}".rstrip()
