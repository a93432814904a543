"""Console: progress on stderr, results on stdout.

What draws them takes as long to import as a quarter of a small kernel to validate: that
is done when the first line is printed, while others validate.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, cast

from harness import progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

PIPE_COLUMNS = 100

# Variables by which people make it a terminal for rich that is none.
_FORCED = {"FORCE_COLOR", "TTY_COMPATIBLE"}


class _Late:
    """A console that is made when somebody asks something of it."""

    def __init__(self, *, stderr: bool, width: int | None = None) -> None:
        self._stderr, self._width = stderr, width

    @functools.cached_property
    def console(self) -> Console:
        """The console itself, for what asks more of it than attributes."""
        from rich.console import Console

        return Console(
            stderr=self._stderr, width=self._width, soft_wrap=True, highlight=False
        )

    def __getattr__(self, name: str) -> object:
        return getattr(self.console, name)


OUT = cast(
    "Console",
    # COLUMNS counts on a terminal only: what starts others sets it for all of them
    _Late(stderr=False, width=None if sys.stdout.isatty() else PIPE_COLUMNS),
)
_ERR = _Late(stderr=True)
ERR = cast("Console", _ERR)

Board = Callable[[str], progress.Progress]

PLAIN_INTERVAL_S = 10.0


@contextlib.contextmanager
def board() -> Iterator[Board]:
    """Yield what opens a progress line by name: drawn live, or a line at times.

    A terminal gets bars; a log gets a line when the step changes and every
    ten seconds.
    """
    if not _terminal():
        yield _plain_board()
        return
    # bars are for terminals: nobody else waits for the import
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = (
        TextColumn("[bold]{task.fields[name]:>14}[/bold]"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=_ERR.console, transient=True) as live:

        def open_line(name: str) -> progress.Progress:
            return _LiveLine(live, live.add_task("", name=name, total=None))

        yield open_line


def _terminal() -> bool:
    forced = sys.stderr.isatty() or not _FORCED.isdisjoint(os.environ)
    return forced and ERR.is_terminal


class _LiveLine:
    def __init__(self, live: Progress, task: TaskID) -> None:
        self._live = live
        self._task = task

    def __call__(self, what: str, done: int = 0, total: int | None = None) -> None:
        self._live.update(self._task, description=what, completed=done, total=total)


def _plain_board() -> Board:
    lock = threading.Lock()
    started = time.monotonic()

    def open_line(name: str) -> progress.Progress:
        last_what = ""
        last_time = 0.0

        def line(what: str, done: int = 0, total: int | None = None) -> None:
            nonlocal last_what, last_time
            now = time.monotonic()
            with lock:
                stage = what.split(":", 1)[0]
                if stage == last_what and now - last_time < PLAIN_INTERVAL_S:
                    return
                last_what, last_time = stage, now
                of = f" {done}/{total}" if total else ""
                ERR.print(f"[{now - started:6.1f} s] {name}:{of} {what}", markup=False)

        return line

    return open_line
