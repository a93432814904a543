"""A request becomes a question of a real repository, and its state file is found again."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from harness.bisect import request as requests
from harness.bisect.bisection import Revert
from harness.bisect.question import Question
from harness.bisect.request import Request
from harness.bisect.search import First
from harness.errors import FormatError, InfraError, UserError
from harness.progress import silent
from harness.variant import Platform, variant
from tests.unit.bisect.kernels import Kernel
from tests.unit.bisect.test_repository import git

FILES = ("Kconfig", "Makefile", "arch/x86/Makefile", "kernel/fork.c", "scripts/x")


@pytest.fixture
def root(tmp_path) -> Path:
    """A line of twelve commits, of which the first is the good end."""
    path = tmp_path / "linux"
    for name in FILES:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).touch()
    git(path, "init", "-q", "-b", "main", ".")
    git(path, "add", ".")
    for number in range(12):
        git(path, "commit", "-q", "--allow-empty", "-m", f"step {number}")
        git(path, "tag", f"v{number}")
    return path


@pytest.fixture
def looker(root, monkeypatch) -> Kernel:
    """What looks at those commits; the bug came with v7."""
    repository = requests.find_room(root).repository
    good, bad = repository.resolve("v0"), repository.resolve("main")
    looker = Kernel(repository.between(good, bad), repository.resolve("v7"))

    @contextlib.contextmanager
    def prober(*_: object):
        yield looker

    monkeypatch.setattr(requests, "_prober", prober)
    return looker


def _bisect(root: Path, **more):
    wanted = Request(root, variant(Platform.NATIVE, "small"))
    return requests.bisect(wanted, "v0", "main", lambda _: silent, **more)


def test_names_become_hashes(root, looker) -> None:
    """Of ends and culprit alike."""
    found = _bisect(root)

    assert found.conclusion == First(looker.culprit)
    assert found.question.bad == git(root, "rev-parse", "main")
    assert set(found.reverts.values()) == {Revert.GONE}


def test_a_machine_that_fails_says_how_to_go_on(root, looker) -> None:
    """And going on does not ask again."""
    looker.dies = 4
    with pytest.raises(InfraError, match="disk is full") as raised:
        _bisect(root)
    assert "--resume" in str(raised.value.hint)
    asked = [commit for commit, _ in looker.looks]
    looker.dies = -1

    found = _bisect(root, resume=True)

    assert found.conclusion == First(looker.culprit)
    again = [commit for commit, clean in looker.looks[4:] if not clean]
    assert not set(asked) & set(again)


def test_a_disk_that_fills_says_how_to_go_on(root, looker, monkeypatch) -> None:
    """Space is what the machine lacks, and the answers before are kept."""
    synced = []

    def fsync(file: int) -> None:
        synced.append(file)
        if len(synced) > 6:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(InfraError, match="No space left") as raised:
        _bisect(root)

    assert "--resume" in str(raised.value.hint)


def test_nothing_is_replaced_before_all_is_ready(root, looker, monkeypatch) -> None:
    """No engine, no space or a room in use: the answers are still there."""
    found = _bisect(root)
    state = requests.find_room(root).state(found.question)
    before = state.read_bytes()

    @contextlib.contextmanager
    def unready(*_: object):
        raise InfraError("no engine")
        yield

    monkeypatch.setattr(requests, "_prober", unready)
    with pytest.raises(InfraError):
        _bisect(root)

    assert state.read_bytes() == before


def test_nothing_to_resume(root, looker) -> None:
    """Another end is another bisection."""
    with pytest.raises(UserError, match="nothing to resume"):
        _bisect(root, resume=True)


def test_a_log_of_gits(root, looker, tmp_path) -> None:
    """Its names are resolved; what it says is not looked at again."""
    log = tmp_path / "log"
    log.write_text("git bisect start\ngit bisect good v6\ngit bisect bad v8\n")

    found = _bisect(root, log=log)

    assert found.conclusion == First(looker.culprit)
    assert len([look for look in looker.looks if not look[1]]) == 3  # ends, v7


def test_a_log_in_another_encoding(root, looker, tmp_path) -> None:
    """Subjects stand in it as they were written; only commands are read."""
    log = tmp_path / "log"
    log.write_bytes(b"# good: [v6] f\xfcr\ngit bisect good v6\n")

    assert _bisect(root, log=log).conclusion == First(looker.culprit)


def test_a_log_that_is_none(root, looker, tmp_path) -> None:
    """The file is in the message."""
    with pytest.raises(UserError, match=r"cannot read .*nowhere"):
        _bisect(root, log=tmp_path / "nowhere")
    (tmp_path / "log").write_text("hello\n")
    with pytest.raises(FormatError, match="log:1"):
        _bisect(root, log=tmp_path / "log")


def test_what_is_configured_is_part_of_the_question(root, tmp_path) -> None:
    """Another fragment is another state file: its answers do not count."""
    fragment = tmp_path / "more.config"
    fragment.write_text("CONFIG_WATCHDOG=y\n")
    room = requests.find_room(root)
    names = set()
    for extra in ((), (fragment,)):
        built = variant(Platform.NATIVE, "small", extra)
        identity = requests.identity(built)
        question = Question(str(root), "a", "b", identity, "vmlinux", ("x",))
        names.add(room.state(question))

    assert len(names) == 2


def test_one_tree_by_other_names(root, tmp_path) -> None:
    """It is one room: what was answered is there, and nobody bisects it twice at once."""
    (tmp_path / "link").symlink_to(root)
    room = requests.find_room(root)

    for name in (tmp_path / "link", root / "scripts" / ".."):
        assert requests.find_room(name) == room


def test_a_dirty_tree_is_refused(root, looker) -> None:
    """For bisect-step: what is on the disk is not what would be judged."""
    (root / "Makefile").write_text("all:\n")
    wanted = Request(root, variant(Platform.NATIVE, "small"), finding="K")

    with pytest.raises(UserError, match="is dirty: Makefile"):
        requests.step(wanted, lambda _: silent)
    assert looker.looks == []


def _step(root: Path, **asked):
    wanted = Request(root, variant(Platform.NATIVE, "small"), **asked)
    return requests.step(wanted, lambda _: silent)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"finding": ""}, "--finding is empty"),
        ({"finding": "K", "target": "lib/hwieght.o"}, r"source of lib/hwieght\.o"),
    ],
)
def test_what_every_commit_would_be_good_of(root, looker, asked, said) -> None:
    """A typo is no answer, for it is the same one everywhere."""
    with pytest.raises(UserError, match=said):
        _step(root, **asked)
    assert looker.looks == []


def test_a_step_in_no_kernel(root, looker) -> None:
    """Nor is a foreign repository."""
    git(root, "rm", "-q", "-r", "scripts")
    git(root, "commit", "-q", "-m", "no kernel")

    with pytest.raises(UserError, match="no kernel tree for x86"):
        _step(root, finding="K")


@pytest.mark.parametrize("file", ["lib/x.c", "lib/x.pl", "lib/Makefile"])
def test_a_target_that_other_commits_have(root, looker, file) -> None:
    """It is good where it is not; a Makefile may make it of several files."""
    (root / "lib").mkdir()
    (root / file).write_text("x-y := a.o\n")
    for words in (("add", file), ("commit", "-q", "-m", "x")):
        git(root, *words)
    git(root, "checkout", "-q", "HEAD~")

    assert _step(root, finding="K", target="lib/x.o").outcome == "good"
