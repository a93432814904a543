"""Trees: what is one, and where snapshots go."""

from __future__ import annotations

import pytest

from harness.build.tree import user_tree
from harness.errors import UserError


@pytest.fixture
def linux(tmp_path, monkeypatch):
    monkeypatch.setenv("ORC_HARNESS_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "linux"
    for name in ("Kconfig", "Makefile", "arch/x86/Makefile", "kernel/fork.c"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"# {name}\n")
    (root / "scripts").mkdir()
    (root / "scripts/a").write_text("")
    return root


@pytest.mark.parametrize("missing", ["Kconfig", "arch/x86/Makefile"])
def test_a_directory_that_is_no_kernel_is_the_users_error(linux, missing):
    """The message names what a kernel tree would have."""
    (linux / missing).unlink()
    with pytest.raises(UserError, match=missing):
        user_tree(linux)


def test_a_source_that_git_ignores_is_no_empty_tree(linux):
    """Nothing is built of nothing."""
    (linux / ".gitignore").write_text("*\n")
    with pytest.raises(UserError, match="git ignores"):
        user_tree(linux)


def test_equal_content_is_one_snapshot(linux):
    """The second look finds the first snapshot."""
    assert user_tree(linux) == user_tree(linux)


def test_an_edit_makes_another_tree(linux):
    """An uncommitted edit is built, and the old snapshot stays as it was."""
    before = user_tree(linux)
    (linux / "kernel/fork.c").write_text("int edited;\n")
    after = user_tree(linux)
    assert before.digest != after.digest
    assert (after.source / "kernel/fork.c").read_text() == "int edited;\n"
    assert (before.source / "kernel/fork.c").read_text() != "int edited;\n"
