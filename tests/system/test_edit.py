"""From an edit to the verdict: pytest on a real source that somebody works on."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import artifacts
from harness.build.tree import default_tree, name_of
from harness.cache import cache_dir
from harness.container import image as images
from harness.container.engine import connect

pytestmark = [pytest.mark.build, pytest.mark.static, pytest.mark.nightly]

LIMIT_S = 1800
FILE = "mm/util.c"
# What make compiles for an edit of one file: that, and what tells the version.
FEW = 10
RIGHT = """
int orc_harness_right(int a);
int orc_harness_right(int a)
{
	return 3 * a;
}
"""
WRONG = """
void orc_harness_edit(void);
void orc_harness_edit(void)
{
	asm volatile("push %rax");
}
"""


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """Somebody's own copy of the default tree; what is kept of it is deleted."""
    with connect() as engine:
        source = default_tree(engine, images.ensure(engine, images.toolchain())).source
    mine = tmp_path / "linux"
    shutil.copytree(source, mine, symlinks=True)
    yield mine
    shutil.rmtree(cache_dir() / "live" / name_of(mine), ignore_errors=True)


def _tested(tree: Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "pytest", "tests/kernel", "-m", "static", "-rf"]
    argv += ["--kernel-tree", str(tree), "--kernel-variant", "native", "-n", "2"]
    return subprocess.run(
        argv, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )


def test_an_edit_is_built_and_judged(tree: Path) -> None:
    """Only what was edited is compiled; what it breaks is named; taken back it is good."""
    before = (tree / FILE).read_text() + RIGHT  # the tree as it is was built before
    (tree / FILE).write_text(before)
    first = _tested(tree)
    (tree / FILE).write_text(before + WRONG)
    wrong = _tested(tree)
    (tree / FILE).write_text(before)
    back = _tested(tree)

    assert first.returncode == 0, first.stdout[-4000:]
    assert wrong.returncode == 1, wrong.stdout[-4000:]
    assert "orc_harness_edit" in wrong.stdout
    assert back.returncode == 0, back.stdout[-4000:]
    (edit,) = (cache_dir() / "live" / name_of(tree) / "edits").glob("*/manifest.json")
    assert 0 < artifacts.load(edit.parent).manifest.compiled <= FEW
