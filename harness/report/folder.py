"""Folder: the ``report/`` directory that a run leaves."""

from __future__ import annotations

from pathlib import Path

from harness.report.junit import to_junit
from harness.result import RunResult, dump


def write(result: RunResult, directory: Path) -> tuple[Path, ...]:
    """Write ``result.json`` and ``junit.xml`` below ``directory``; return them."""
    directory.mkdir(parents=True, exist_ok=True)
    documents = {"result.json": dump(result), "junit.xml": to_junit(result)}
    for name, data in documents.items():
        (directory / name).write_bytes(data)
    return tuple(directory / name for name in documents)
