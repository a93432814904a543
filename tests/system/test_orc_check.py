"""The kbuild fragment: `make orc-check` builds, then judges what came out."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.data import CONFIGS
from tests.builders.elfwriter import ALLOC, EXEC, UND, ElfWriter, add_orc, call

FRAGMENT = CONFIGS / "kbuild" / "orc-check.mk"
# As kbuild does, it builds below O= and makes other goals in their order.
MAKEFILE = """\
O ?= .
all: ; cp prebuilt.o $(O)/vmlinux.o
first second: ; @echo made $@
"""

pytestmark = [
    pytest.mark.static,
    pytest.mark.skipif(shutil.which("make") is None, reason="needs GNU make"),
]


def make(where: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments, f"ORC_HARNESS={sys.executable} -m harness"],
        cwd=where,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with the fragment in place, whose build makes a right vmlinux.o."""
    (tmp_path / "Makefile").write_text(MAKEFILE)
    (tmp_path / "GNUmakefile").symlink_to(FRAGMENT)
    write(tmp_path, 16)
    return tmp_path


def write(tree: Path, offset: int) -> None:
    """Write what the build copies: `push; pop; ret`, its state in between given."""
    writer = ElfWriter()
    text = writer.section(".text", bytes.fromhex("5058c3"), flags=ALLOC | EXEC)
    writer.symbol("f", text, 0, 3)
    rows = [(0, call(8)), (1, call(offset)), (2, call(8)), (3, UND)]
    add_orc(writer, text, [*rows, (2, call(8))] if offset != 16 else rows)
    (tree / "prebuilt.o").write_bytes(writer.build())


def test_it_builds_and_validates(tree: Path) -> None:
    """In place, and below O=."""
    (tree / "out").mkdir()

    in_place, below = make(tree, "orc-check"), make(tree, "orc-check", "O=out")

    for done, where in ((in_place, tree), (below, tree / "out")):
        assert done.returncode == 0, done.stderr
        assert "0 new findings" in done.stdout
        assert (where / "vmlinux.o").is_file()


def test_a_wrong_table_fails_the_build(tree: Path) -> None:
    """The exit code of orc-harness is make's failure."""
    write(tree, 24)

    done = make(tree, "orc-check")

    assert done.returncode == 2
    assert "table/duplicate" in done.stdout


def test_other_goals_go_to_the_kernel(tree: Path) -> None:
    """Alone as ever; with orc-check they are made first, in their order."""
    alone = make(tree, "first")
    (tree / "vmlinux.o").write_bytes((tree / "prebuilt.o").read_bytes())
    both = make(tree, "second", "first", "orc-check")

    assert alone.stdout == "made first\n"
    made = [line for line in both.stdout.splitlines() if line.startswith("made")]
    assert made == ["made second", "made first"]
    assert both.returncode == 0, both.stderr
