"""Plants: data that is whole, edits that fit or say so, trees that stay clean."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.build.tree import Tree
from harness.corpus.plant import (
    PLANTS,
    Blame,
    Edit,
    Heard,
    Plant,
    is_planted,
    planted,
    read_plants,
)
from harness.errors import FormatError, UserError
from harness.finding import Finding, Location
from harness.result import Stage

EDIT = Edit("lib/a.c", "int one;", "int two;")
PLANT = Plant(
    "p",
    "a bug",
    "wrong",
    Blame.CODE,
    Heard.SILENT,
    ("text/*",),
    (EDIT,),
    symbols=("asm_*",),
)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """A tree of two files, and a cache beside it."""
    monkeypatch.setenv("ORC_HARNESS_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "source"
    (source / "lib").mkdir(parents=True)
    (source / "lib" / "a.c").write_text("int one;\n")
    (source / "Makefile").write_text("all:\n")
    return Tree(source, "digest", "a tree")


def test_the_plants_that_are_kept() -> None:
    """There are the twelve that were asked for, of every culprit that can be planted."""
    plants = read_plants()

    assert len(plants) >= 12
    assert {p.blame for p in plants} >= {
        Blame.CODE,
        Blame.HINT,
        Blame.OBJTOOL,
        Blame.SORTTABLE,
    }
    assert {p.objtool for p in plants} == set(Heard)
    assert len({p.digest for p in plants}) == len(plants)


def test_the_plants_that_are_seen_as_they_run() -> None:
    """Six at least, by every oracle; one is wrong in the image's table and in memory."""
    plants = [plant for plant in read_plants() if plant.runs]

    assert len(plants) >= 6
    assert {one for plant in plants for one in plant.oracles} >= {
        Stage.READBACK,
        Stage.COMPARE,
        Stage.SHADOW,
    }
    assert any(Stage.SHADOW in p.oracles and not p.static for p in plants)


@pytest.mark.parametrize("path", sorted(PLANTS.glob("*.toml")), ids=lambda p: p.stem)
def test_a_plant_says_what_is_wrong(path: Path) -> None:
    """Bug and reason are there, and every edit changes something."""
    (plant,) = [one for one in read_plants() if one.name == path.stem]

    assert plant.bug
    assert plant.reason
    assert plant.rules
    assert all(edit.old != edit.new for edit in plant.edit)


def test_a_planted_tree_is_another_tree(tree: Tree) -> None:
    """It has the bug, its own digest and name; the rest is linked, not copied."""
    with planted(tree, PLANT) as other:
        assert (other.source / "lib/a.c").read_text() == "int two;\n"
        assert (other.source / "Makefile").samefile(tree.source / "Makefile")
        assert other.digest != tree.digest
        assert other.name == "a tree + p"
        assert is_planted(other.name)
    assert not is_planted(tree.name)


def test_the_clean_tree_stays_clean(tree: Tree) -> None:
    """The edited file is written anew, and the copy is gone afterwards."""
    with planted(tree, PLANT) as other:
        where = other.source

    assert (tree.source / "lib/a.c").read_text() == "int one;\n"
    assert not where.exists()


@pytest.mark.parametrize("text", ["int three;\n", "int one; int one;\n"])
def test_a_plant_that_does_not_fit(tree: Tree, text: str) -> None:
    """Its text must be there exactly once, or nobody knows what was planted."""
    (tree.source / "lib" / "a.c").write_text(text)

    with pytest.raises(UserError, match="plant p does not fit"), planted(tree, PLANT):
        pass


def test_a_file_that_is_not_there(tree: Tree) -> None:
    """That is the same mistake."""
    (tree.source / "lib" / "a.c").unlink()

    with pytest.raises(UserError, match=r"0 times in lib/a\.c"), planted(tree, PLANT):
        pass


@pytest.mark.parametrize(
    ("rule", "symbol", "seen"),
    [
        ("text/step", "asm_exc_nmi", True),
        ("table/order", "asm_exc_nmi", False),
        ("text/step", "do_exit", False),
    ],
)
def test_a_finding_counts_by_rule_and_place(rule: str, symbol: str, seen: bool) -> None:
    """The right rule elsewhere is luck, the wrong rule there is another bug."""
    finding = Finding(rule, Location("vmlinux", symbol, 0), "wrong")

    assert bool(PLANT.seen_by([finding])) is seen


@pytest.mark.parametrize("text", ["bug = 1", "bug =", 'bug = "b"\nreason = "r"'])
def test_damaged_data(tmp_path: Path, text: str) -> None:
    """The error names the file."""
    (tmp_path / "broken.toml").write_text(text)

    with pytest.raises(FormatError, match=r"broken\.toml is not a plant"):
        read_plants(tmp_path)
