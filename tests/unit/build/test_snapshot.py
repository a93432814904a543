"""Snapshots: one content has one hash, and the user's tree is only read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness import run
from harness.build import snapshot
from harness.build.snapshot import hash_file, list_source, snapshots, take
from harness.progress import silent

FILES = {
    ".gitignore": "*.o\n.config\ngenerated/\n",
    "Makefile": "all:\n",
    "kernel/fork.c": "int fork;\n",
}


def _git(root: Path, *arguments: str) -> None:
    author = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    run.check(["git", "-C", str(root), *author, *arguments], timeout_s=30)


@pytest.fixture
def plain(tmp_path) -> Path:
    root = tmp_path / "plain"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "script.sh").write_text("#!/bin/sh\n")
    (root / "script.sh").chmod(0o755)
    (root / "link").symlink_to("./Makefile")  # git keeps the dot
    return root


@pytest.fixture
def worktree(plain) -> Path:
    _git(plain, "init", "-q")
    _git(plain, "add", "-A")
    _git(plain, "commit", "-q", "-m", "first")
    return plain


def _digest(root: Path, tmp_path: Path) -> str:
    return list_source(root, tmp_path / "hashes").digest


def test_committed_and_plain_trees_have_one_hash(plain, tmp_path):
    """It is the content that counts, not the repository."""
    before = _digest(plain, tmp_path)
    _git(plain, "init", "-q")
    _git(plain, "add", "-A")
    _git(plain, "commit", "-q", "-m", "first")
    assert _digest(plain, tmp_path) == before


def test_dirty_tree_has_the_hash_that_its_commit_will_have(worktree, tmp_path):
    """Changed, new, deleted and mode-changed files count before they are committed."""
    clean = _digest(worktree, tmp_path)
    (worktree / "kernel/fork.c").write_text("int changed;\n")
    (worktree / "kernel/new.c").write_text("int new;\n")
    (worktree / "Makefile").chmod(0o755)
    (worktree / "link").unlink()
    dirty = _digest(worktree, tmp_path)
    _git(worktree, "add", "-A")
    _git(worktree, "commit", "-q", "-m", "second")
    assert dirty == _digest(worktree, tmp_path)
    assert dirty != clean


@pytest.mark.parametrize("kind", ["plain", "worktree"])
def test_build_products_are_left_out(kind, tmp_path, request):
    """A tree that was built in place is as good as a clean one."""
    root = request.getfixturevalue(kind)
    clean = _digest(root, tmp_path)
    (root / ".config").write_text("CONFIG_SMP=y\n")
    (root / "kernel/fork.o").write_bytes(b"\x7fELF")
    (root / "generated").mkdir()
    (root / "generated/header.h").write_text("")
    assert _digest(root, tmp_path) == clean


def test_debians_rule_against_everything_is_overruled(plain, tmp_path):
    """Their source packages carry the .gitignore of the packaging repository."""
    before = set(list_source(plain, tmp_path / "hashes").files)
    with (plain / ".gitignore").open("a") as rules:
        rules.write("vmlinux\n/*\n!/debian/\n")
    (plain / "vmlinux").write_bytes(b"\x7fELF")
    (plain / "System.map").write_text("")
    (plain / "kernel/fork.o").write_bytes(b"\x7fELF")
    after = set(list_source(plain, tmp_path / "hashes").files)
    assert before - after == {".gitignore", "link", "script.sh"}
    assert after <= before


def test_plain_directory_inside_a_repository_is_listed_itself(worktree, tmp_path):
    """The repository around a directory does not answer for it."""
    inner = worktree / "inner"
    (inner / "kernel").mkdir(parents=True)
    (inner / "Makefile").write_text("inner:\n")
    assert set(list_source(inner, tmp_path / "hashes").files) == {"Makefile"}


def test_only_what_changed_is_hashed_again(plain, tmp_path, monkeypatch):
    """Of a whole kernel a thread's work for each file is seconds; and it is found."""
    monkeypatch.setattr(snapshot, "_REPORT_EVERY", 0)
    first = list_source(plain, tmp_path / "hashes").files
    hashed: list[Path] = []
    monkeypatch.setattr(
        snapshot, "hash_file", lambda path: hashed.append(path) or hash_file(path)
    )
    (plain / "kernel/fork.c").write_text("int fork, of_another_size;\n")

    second = list_source(plain, tmp_path / "hashes").files

    assert hashed == [plain / "kernel/fork.c"]
    assert {p for p in first if first[p] != second[p]} == {"kernel/fork.c"}


def test_taking_a_snapshot_keeps_content_modes_and_times(plain, tmp_path):
    """make sees in the copy what it would see in the original."""
    os.utime(plain / "Makefile", (1, 1))
    listing = list_source(plain, tmp_path / "hashes")
    target = tmp_path / "snapshot"
    take(listing, target, silent)
    assert list_source(target, tmp_path / "other").digest == listing.digest
    assert (target / "Makefile").stat().st_mtime == 1
    assert (target / "script.sh").stat().st_mode & 0o111
    assert (target / "link").readlink() == Path("Makefile")


def test_unchanged_files_are_linked_to_the_previous_snapshot(plain, tmp_path):
    """An edit costs one file; the previous snapshot keeps its own content."""
    first, second = tmp_path / "1", tmp_path / "2"
    take(list_source(plain, tmp_path / "hashes"), first, silent)
    (plain / "Makefile").write_text("changed:\n")
    take(list_source(plain, tmp_path / "hashes"), second, silent, first)
    assert (second / "kernel/fork.c").samefile(first / "kernel/fork.c")
    assert (first / "Makefile").read_text() == FILES["Makefile"]
    assert (second / "Makefile").read_text() == "changed:\n"
    assert sorted(snapshots(tmp_path)) == [first, second]


def test_the_users_tree_is_never_written(worktree, tmp_path):
    """Listing and copying leave every file as it was, git's index too."""

    def state():
        return sorted(
            (str(path), path.lstat().st_mtime_ns, path.lstat().st_size)
            for path in worktree.rglob("*")
        )

    (worktree / "kernel/fork.c").write_text("int changed;\n")
    before = state()
    take(list_source(worktree, tmp_path / "hashes"), tmp_path / "copy", silent)
    assert state() == before


def test_every_user_can_read_a_snapshot(plain, tmp_path):
    """A container's user is not the caller, whose umask and modes may keep it out."""
    (plain / "Makefile").chmod(0o600)
    (plain / "script.sh").chmod(0o700)
    (plain / "kernel").chmod(0o700)
    target = tmp_path / "snapshot"
    before = os.umask(0o077)
    try:
        take(list_source(plain, tmp_path / "hashes"), target, silent)
    finally:
        os.umask(before)

    def mode(path: Path) -> int:
        return path.stat().st_mode & 0o777

    assert mode(target / "Makefile") == 0o644
    assert mode(target / "script.sh") == 0o755
    assert [mode(target), mode(target / "kernel")] == [0o755, 0o755]
    assert [mode(plain / "Makefile"), mode(plain / "kernel")] == [0o600, 0o700]
