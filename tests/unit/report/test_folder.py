"""The report's directory is checked before the work, not after it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UserError
from harness.report import folder
from harness.result import SCHEMA, RunResult, load


def test_a_report_is_written_where_it_was_prepared(tmp_path: Path) -> None:
    """All documents are there, and the result reads back."""
    result = RunResult(SCHEMA, "r", "2026", 1.0, "small", "linux", {}, ())

    folder.prepare(tmp_path / "a/b")
    written = folder.write(result, tmp_path / "a/b")
    page = folder.draw(result, tmp_path / "a/b")

    assert [path.name for path in written] == ["result.json", "junit.xml"]
    assert page.name == "report.html"
    assert {*written, page} == set((tmp_path / "a/b").iterdir())
    assert load(written[0]) == result


def test_a_tree_whose_name_is_no_text(tmp_path: Path) -> None:
    """All the work is done by then: it is written, spelt as Python spells it."""
    result = RunResult(SCHEMA, "r", "2026", 1.0, "small", "lin\udcffux", {}, ())

    path, *_ = folder.write(result, tmp_path)

    assert load(path).tree == "lin\\udcffux"


def test_a_place_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    """A file in the way is one clear error, before anything is built."""
    (tmp_path / "report").write_text("not a directory")

    with pytest.raises(UserError, match="cannot write to"):
        folder.prepare(tmp_path / "report")
