"""A copy that follows edits: what it holds, and what make thinks of its times."""

from __future__ import annotations

import os
import time

import pytest

from harness.build import live, snapshot
from harness.build.live import following
from harness.errors import UserError

OLD_S = 1e9


@pytest.fixture
def linux(tmp_path, monkeypatch):
    monkeypatch.setenv("ORC_HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(live, "SPACE", 1)
    root = tmp_path / "linux"
    for name in ("Kconfig", "Makefile", "arch/x86/Makefile", "kernel/fork.c"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"# {name}\n")
        os.utime(root / name, (OLD_S, OLD_S))
    (root / "scripts").mkdir()
    (root / "scripts/a").write_text("")
    return root


def _copy(root):
    with following(root) as found:
        source = found.tree.source
        return {
            path.relative_to(source).as_posix(): path.read_text()
            for path in source.rglob("*")
            if path.is_file()
        }


def test_an_edit_is_followed(linux):
    """Changed, new and deleted files, in the same directory as before."""
    _copy(linux)
    (linux / "kernel/fork.c").write_text("int edited;\n")
    (linux / "mm").mkdir()
    (linux / "mm/new.c").write_text("int new;\n")
    (linux / "scripts/a").write_text("b")
    (linux / "Makefile").unlink()
    (linux / "Makefile").symlink_to("arch/x86/Makefile")

    after = _copy(linux)

    assert after["kernel/fork.c"] == "int edited;\n"
    assert after["mm/new.c"] == "int new;\n"
    (linux / "mm/new.c").unlink()
    assert "mm/new.c" not in _copy(linux)


def test_a_file_may_become_a_directory(linux):
    """And back."""
    (linux / "a").write_text("file")
    _copy(linux)
    (linux / "a").unlink()
    (linux / "a").mkdir()
    (linux / "a/b").write_text("below")
    assert _copy(linux)["a/b"] == "below"
    (linux / "a/b").unlink()
    (linux / "a").rmdir()
    (linux / "a").write_text("file")
    assert _copy(linux)["a"] == "file"


def test_what_changed_is_new_to_make(linux):
    """Even where its time is old; what did not change keeps its own."""
    _copy(linux)
    (linux / "kernel/fork.c").write_text("int stashed;\n")
    os.utime(linux / "kernel/fork.c", (OLD_S, OLD_S))

    with following(linux) as found:
        edited = (found.tree.source / "kernel/fork.c").stat().st_mtime
        left = (found.tree.source / "Kconfig").stat().st_mtime

    assert edited > time.time() - 60
    assert left == OLD_S


def test_the_digest_is_that_of_a_snapshot(linux):
    """So that a build of either is found by the other."""
    digest = snapshot.list_source(linux, linux.parent / "hashes").digest
    with following(linux) as found:
        assert found.tree.digest == digest


def test_what_a_kill_left_is_taken_anew(linux):
    """Its manifest is there while it is true."""
    _copy(linux)
    with following(linux) as found:
        copy = found.tree.source
    copy.with_suffix(".json").unlink()
    (copy / "kernel/fork.c").unlink()
    (copy / "debris").write_text("")
    built = copy.parent / "out-native-1"
    built.mkdir()

    assert _copy(linux).keys() == {
        "Kconfig",
        "Makefile",
        "arch/x86/Makefile",
        "kernel/fork.c",
        "scripts/a",
    }
    assert not built.exists(), "its objects are newer than files that were edited"


def test_a_file_that_changes_while_it_is_copied_is_told(linux, monkeypatch):
    """Nothing is judged that nobody wrote, and the next look is right."""
    _copy(linux)
    (linux / "kernel/fork.c").write_text("int edited;\n")
    place = live.place

    def change(source, target):
        source.write_text("int again;\n")
        place(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(live, "place", change)
        with pytest.raises(UserError, match=r"kernel/fork\.c was changed"):
            _copy(linux)
    assert _copy(linux)["kernel/fork.c"] == "int again;\n"


def test_a_snapshot_that_it_was_linked_from_stays(linux):
    """Files are replaced, never written."""
    from harness.build.tree import user_tree

    before = user_tree(linux)
    _copy(linux)
    (linux / "kernel/fork.c").write_text("int edited;\n")
    _copy(linux)

    assert (before.source / "kernel/fork.c").read_text() == "# kernel/fork.c\n"
