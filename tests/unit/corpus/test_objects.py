"""Hand-made objects: their table of what is expected, and when it is met."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.corpus.objects import Expected, Judged, Objtool, read_expected
from harness.errors import FormatError
from harness.finding import Finding, Location


def finding(rule: str) -> Finding:
    return Finding(rule, Location("a.o", "victim", 4), "wrong")


def test_every_conflict_class_has_an_object() -> None:
    """a to g, and objects that have to be called clean."""
    expected = read_expected()

    assert {one.conflict for one in expected.values()} == set("abcdefg")
    assert any(not one.rules for one in expected.values())


@pytest.mark.parametrize(
    ("objtool", "rules", "words", "found", "good"),
    [
        (Objtool.SILENT, ("alternative/ret-1",), (), ("alternative/ret-1",), True),
        (Objtool.SILENT, ("alternative/ret-1",), (), (), False),
        (Objtool.SILENT, ("alternative/*",), (), ("alternative/x",), True),
        (Objtool.SILENT, (), (), (), True),
        (Objtool.SILENT, (), (), ("table/order",), False),
        (Objtool.NOISY, ("a/b",), ("warning",), ("a/b",), True),
        (Objtool.NOISY, ("a/b",), (), ("a/b",), False),
        (Objtool.SILENT, ("a/b",), ("warning",), ("a/b",), False),
        (Objtool.UNSEEN, ("a/b",), (), ("a/b",), True),
    ],
)
def test_both_have_to_say_what_is_expected(
    objtool: Objtool,
    rules: tuple[str, ...],
    words: tuple[str, ...],
    found: tuple[str, ...],
    good: bool,
) -> None:
    """Ours by rule, objtool by saying something or nothing."""
    findings = tuple(map(finding, found))
    judged = Judged("x", Expected("a", objtool, rules), words, findings)

    assert judged.good is good


def test_a_source_without_an_entry(tmp_path: Path) -> None:
    """Table and directory have to agree."""
    (tmp_path / "objects.toml").write_text("")
    (tmp_path / "lost.S").write_text("nop\n")

    with pytest.raises(FormatError, match="disagree on lost"):
        read_expected(tmp_path)


@pytest.mark.parametrize("text", ["x =", "[x]\nrules = []", "x = 1"])
def test_a_damaged_table(tmp_path: Path, text: str) -> None:
    """The error names it."""
    (tmp_path / "objects.toml").write_text(text)

    with pytest.raises(FormatError, match="is no table of objects"):
        read_expected(tmp_path)
