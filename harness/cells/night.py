"""Night: one run of the matrix, which a kill does not lose.

While it lasts a file says which one it is. Who finds that file goes on with it: what it
has finished is answered, whatever it came to. What earlier nights have made is answered
where nothing that it depends on has changed, and it came to its end.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from harness import baseline
from harness.cache import cache_dir, try_locked
from harness.cells.cell import Cell
from harness.cells.kept import Kept, judged_again, renamed
from harness.errors import UserError
from harness.result import RunResult, Stage, StageResult, plain, run_result

STALE = timedelta(hours=20)  # who is as late as that is the next night


class Night(Struct, frozen=True):
    """One run of the matrix.

    Attributes:
        name: its own.
        asked: the hash of what it was asked for: another question is another night.
        started: when, in UTC, as ISO 8601 writes it.
        resumed: whether it was found unfinished.
    """

    name: str
    asked: str
    started: str
    resumed: bool = False

    @property
    def since(self) -> datetime:
        """When it was started."""
        return datetime.fromisoformat(self.started)


def question(cells: Sequence[Cell], **how: object) -> str:
    """Return the hash of what a night is asked for."""
    parts = {"cells": [repr(cell) for cell in cells], **how}
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextlib.contextmanager
def night(asked: str, directory: Path | None = None) -> Iterator[Night]:
    """Yield the night that was asked for ``asked`` and not finished, or a new one.

    It is finished when the block ends without an exception.

    Raises:
        UserError: another process is at it.
    """
    directory = directory or cache_dir() / "nights"
    path = directory / f"{asked}.json"
    with try_locked(directory / f"{asked}.lock") as free:
        if not free:
            raise UserError(
                "this matrix is being run already",
                hint="wait for it, or name other cells",
            )
        found = _unfinished(path, asked)
        if found is None:
            found = _new(asked)
            scratch = path.with_suffix(".new")
            scratch.write_text(json.dumps(plain(found)))
            scratch.replace(path)
        yield found
        path.unlink()


def _new(asked: str) -> Night:
    now = datetime.now(UTC)
    name = f"{now:%Y%m%dT%H%M%S}-{os.urandom(3).hex()}"
    return Night(name, asked, now.isoformat(timespec="seconds"))


def _unfinished(path: Path, asked: str) -> Night | None:
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Night)
        fresh = datetime.now(UTC) - found.since < STALE
    except (OSError, ValueError):  # msgspec's is one
        return None
    return replace(found, resumed=True) if fresh and found.asked == asked else None


def result(
    now: Night, kept: Sequence[Kept], cells: Sequence[Cell], label: str
) -> RunResult:
    """Return the run that all of ``cells`` come to, judged by today's baseline.

    ``label`` is what the store calls the matrix: nights of one are compared.
    """
    entries = baseline.load_all()
    today = datetime.now(UTC).date()
    stages: list[StageResult] = []
    tools: dict[str, str] = {}
    for cell, each in zip(cells, kept, strict=True):
        verdict = renamed(judged_again(each.stages, entries, today), cell.name)
        stages += _answered(verdict, each) if each.night != now.name else verdict
        tools |= each.tools
    tree = f"matrix ({len(cells)} cells)"
    return run_result(label, tree, stages, started=now.since, tools=tools)


def _answered(stages: Sequence[StageResult], kept: Kept) -> list[StageResult]:
    """Say where what was not made again is from."""
    note = f"unchanged: answered by the run {kept.night}, on {kept.host}"
    return [
        replace(stage, notes=(*stage.notes, note))
        if stage.stage is Stage.BUILD
        else stage
        for stage in stages
    ]


def write_attempts(kept: Sequence[Kept], directory: Path) -> tuple[Path, ...]:
    """Write every attempt of what was tried more than once; return the files."""
    written = []
    for each in kept:
        if len(each.attempts) > 1:
            path = directory / "attempts" / f"{each.name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(plain(each), indent=2) + "\n")
            written.append(path)
    return tuple(written)
