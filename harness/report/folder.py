"""Folder: the ``report/`` directory that a run leaves."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness.errors import UserError
from harness.history.diff import Diff
from harness.history.trend import Trend
from harness.report.html import to_html
from harness.report.junit import to_junit
from harness.result import RunResult, dump


def prepare(directory: Path) -> None:
    """Make ``directory`` before the work whose result goes there.

    Raises:
        UserError: it cannot be made or written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as exc:
        raise UserError(
            f"cannot write to {directory}: {exc.strerror}",
            hint="name another directory with --report",
        ) from exc


def write(result: RunResult, directory: Path) -> tuple[Path, ...]:
    """Write the result below ``directory`` as machines read it; return the documents.

    They are JSON and JUnit. ``orc-harness report`` makes all others of the first.
    """
    directory.mkdir(parents=True, exist_ok=True)
    documents = {
        "result.json": dump(result),
        "junit.xml": to_junit(result),
    }
    for name, data in documents.items():
        (directory / name).write_bytes(data)
    return tuple(directory / name for name in documents)


def draw(
    result: RunResult,
    directory: Path,
    trends: Sequence[Trend] = (),
    since: Diff | None = None,
) -> Path:
    """Write the page for people, which has what came before, into ``directory``."""
    path = directory / "report.html"
    path.write_bytes(to_html(result, trends, since).encode())
    return path
