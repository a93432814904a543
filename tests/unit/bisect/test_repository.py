"""The user's repository is read, never written; our checkout follows its commits."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.bisect.repository import Checkout, Repository, check_out, open_repository
from harness.errors import UserError


def git(where: Path, *argv: str) -> str:
    identity = ("-c", "user.name=A", "-c", "user.email=a@b")
    done = subprocess.run(
        ["git", *identity, *argv], cwd=where, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def root(tmp_path) -> Path:
    """Four commits of one file, and a side branch of the first."""
    path = tmp_path / "linux"
    path.mkdir()
    git(path, "init", "-q", "-b", "main", ".")
    for name in (
        "Kconfig",
        "Makefile",
        "arch/x86/Makefile",
        "kernel/fork.c",
        "scripts/x",
    ):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).touch()
    git(path, "add", ".")
    for number in range(4):
        (path / "file").write_text(f"{number}\n" * 3)
        git(path, "add", "file")
        git(path, "commit", "-q", "-m", f"step {number}")
        git(path, "tag", f"v{number}")
    git(path, "branch", "side", "v0")
    git(path, "checkout", "-q", "side")
    (path / "other").write_text("side\n")
    git(path, "add", "other")
    git(path, "commit", "-q", "-m", "aside")
    git(path, "checkout", "-q", "main")
    return path


def _state(root: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_what_lies_between(root) -> None:
    """The good end is not in it, the bad end is, each with its parents."""
    repository = open_repository(root)
    good, bad = repository.resolve("v1"), repository.resolve("v3")

    dag = repository.between(good, bad)

    middle = repository.resolve("v2")
    assert dag.parents == {bad: (middle,), middle: (good,)}


def test_what_people_call_it(root) -> None:
    """Hash, author and subject."""
    repository = open_repository(root)
    found = repository.about(repository.resolve("v2"))

    assert str(found) == f'{found.hash[:12]} ("step 2")'
    assert found.author == "A <a@b>"


@pytest.mark.parametrize("revision", ["v9", "--help", "", "v1:file", "HEAD~99"])
def test_no_such_commit(root, revision) -> None:
    """What was asked for is in the message."""
    with pytest.raises(UserError, match="has no commit"):
        open_repository(root).resolve(revision)


def test_ends_on_two_branches(root) -> None:
    """What both are made on is named."""
    repository = open_repository(root)
    side, bad = repository.resolve("side"), repository.resolve("v3")

    with pytest.raises(UserError, match="is not made on") as raised:
        repository.between(side, bad)

    assert repository.resolve("v0")[:12] in str(raised.value.hint)


def test_ends_in_the_wrong_order(root) -> None:
    """The bad one has to be the newer."""
    repository = open_repository(root)

    with pytest.raises(UserError, match="is made on the bad end") as raised:
        repository.between(repository.resolve("v3"), repository.resolve("v1"))

    assert "swapped" in str(raised.value.hint)


def test_one_commit_for_both_ends(root) -> None:
    """There is nothing between."""
    commit = open_repository(root).resolve("v1")

    with pytest.raises(UserError, match="same commit"):
        open_repository(root).between(commit, commit)


@pytest.mark.parametrize("ends", [("v1", "HEAD"), ("HEAD", "v1")])
@pytest.mark.parametrize("path", ["scripts", "arch/x86/Makefile"])
def test_no_kernel_for_x86(root, path, ends) -> None:
    """What is missing is named; the files beside the history do not count."""
    git(root, "rm", "-q", "-r", "--cached", path)
    git(root, "commit", "-q", "-m", "no kernel")
    repository = open_repository(root)

    with pytest.raises(UserError, match=rf"tree for x86: .* has no {path}"):
        repository.between(*map(repository.resolve, ends))


def test_a_bare_repository(root, tmp_path) -> None:
    """A mirror does as well."""
    bare = tmp_path / "bare"
    git(tmp_path, "clone", "-q", "--bare", str(root), str(bare))
    repository = open_repository(bare)

    assert repository.dirty() == ()
    assert (
        len(repository.between(repository.resolve("v1"), repository.resolve("v3"))) == 2
    )


def test_a_shallow_clone(root, tmp_path) -> None:
    """It says how to get the rest."""
    clone = tmp_path / "shallow"
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{root}", str(clone))

    with pytest.raises(UserError, match="shallow") as raised:
        open_repository(clone)

    assert "--unshallow" in str(raised.value.hint)


def test_no_repository(tmp_path, root) -> None:
    """Nor a directory inside of one, nor none at all."""
    (root / "lib").mkdir()
    plain = tmp_path / "plain"
    plain.mkdir()
    for path, message in (
        (plain, "no git repository"),
        (root / "lib", "no top of a repository"),
        (tmp_path / "missing", "does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            open_repository(path)


def test_dirty(root) -> None:
    """Tracked files count, others do not."""
    assert open_repository(root).dirty() == ()
    (root / "new").write_text("x")
    (root / "file").write_text("x")

    assert open_repository(root).dirty() == ("file",)


def test_the_checkout_follows(root, tmp_path) -> None:
    """Any commit, in place; the user's repository stays as it is to the byte."""
    before = _state(root)
    repository = open_repository(root)
    checkout = check_out(repository, tmp_path / "ours")
    for name, text in (("v0", "0"), ("v3", "3"), ("v1", "1")):
        checkout.switch(repository.resolve(name))
        assert (checkout.source / "file").read_text() == f"{text}\n" * 3
        assert not (checkout.source / ".git").exists()

    assert _state(root) == before


def test_it_touches_what_differs_only(root, tmp_path) -> None:
    """Else make would build the whole kernel for each commit."""
    repository = open_repository(root)
    checkout = check_out(repository, tmp_path / "ours")
    side, first = repository.resolve("side"), repository.resolve("v0")
    checkout.switch(side)
    before = (checkout.source / "file").stat().st_mtime_ns

    checkout.switch(first)

    assert checkout.changed(side, first) == ("other",)
    assert not (checkout.source / "other").exists()
    assert (checkout.source / "file").stat().st_mtime_ns == before


def test_what_a_kill_left(root, tmp_path) -> None:
    """A lock of git's, and files in any state, are no obstacle."""
    repository = open_repository(root)
    checkout = check_out(repository, tmp_path / "ours")
    checkout.switch(repository.resolve("v0"))
    (checkout.git_dir / "index.lock").touch()
    (checkout.source / "file").write_text("half")
    (checkout.source / "ghost").touch()

    checkout = check_out(repository, tmp_path / "ours")
    checkout.switch(repository.resolve("v0"))

    assert (checkout.source / "file").read_text() == "0\n" * 3
    assert not (checkout.source / "ghost").exists()


def test_a_switch_that_was_interrupted(root, tmp_path, monkeypatch) -> None:
    """git takes its lock away, and leaves what it has written: no index knows of that."""
    repository = open_repository(root)
    checkout = check_out(repository, tmp_path / "ours")
    checkout.switch(repository.resolve("v0"))
    ghost = checkout.source / "include" / "ghost.h"

    def interrupted(*_: object) -> str:
        ghost.parent.mkdir()
        ghost.touch()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkout, "_do", interrupted)
        with pytest.raises(KeyboardInterrupt):
            checkout.switch(repository.resolve("v1"))
    checkout.switch(repository.resolve("v1"))

    assert not ghost.parent.exists()
    assert (checkout.source / "file").read_text() == "1\n" * 3


def test_a_revert(root, tmp_path) -> None:
    """A commit of ours that is the other without one; no other one knows of it."""
    repository = open_repository(root)
    checkout = check_out(repository, tmp_path / "ours")
    last, merged = repository.resolve("v3"), repository.resolve("v1")

    made = checkout.revert(last, last, mainline=False)

    assert made is not None
    assert checkout.changed(made, repository.resolve("v2")) == ()
    assert checkout.knows(made)
    assert repository.git("cat-file", "-e", made).returncode
    assert checkout.revert(merged, last, mainline=False) is None
    checkout.switch(last)
    assert (checkout.source / "file").read_text() == "3\n" * 3


def test_the_surroundings_do_not_count(root, tmp_path, monkeypatch) -> None:
    """Variables that point git elsewhere, as in a hook, are not ours."""
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))

    assert isinstance(open_repository(root), Repository)
