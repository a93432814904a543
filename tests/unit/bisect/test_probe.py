"""A look at a commit: which toolchain, which directory, and what makes no answer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.bisect import workbench
from harness.bisect.judge import Validation
from harness.bisect.probe import Prober
from harness.bisect.repository import check_out, open_repository
from harness.bisect.workbench import Workbench
from harness.container.host import HostEngine
from harness.container.image import Image
from harness.errors import BuildError, InfraError
from harness.variant import Platform, variant
from tests.builders.elfwriter import ALLOC, EXEC, UND, ElfWriter, add_orc, call
from tests.unit.bisect.test_repository import git


def _object(*, orc: bool, behind_push: int = 16) -> bytes:
    writer = ElfWriter()
    text = writer.section(".text", bytes.fromhex("50 90 58 c3"), flags=ALLOC | EXEC)
    writer.symbol("f", text, 0, 4)
    if orc:
        rows = [(0, call(8)), (1, call(behind_push)), (3, call(8)), (4, UND)]
        add_orc(writer, text, rows)
    return writer.build()


class Builds:
    """Stands in for make: what each toolchain leaves, and where it was asked to."""

    def __init__(self) -> None:
        self.leaves: dict[str, bytes | Exception] = {}
        self.calls: list[tuple[str, bool, bool]] = []

    @contextlib.contextmanager
    def opened(self, engine, order, directory, progress) -> Iterator[SimpleNamespace]:
        kept = directory.is_dir()
        directory.mkdir(parents=True, exist_ok=True)
        yield SimpleNamespace(
            directory=directory,
            name=order.image.tag,
            kept=kept,
            out=directory,
            config={},
        )

    def make(self, place, target, more=(), *, reconfigure) -> Path:
        self.calls.append((place.name, place.kept, reconfigure))
        left = self.leaves[place.name]
        if isinstance(left, Exception):
            raise left
        path = place.directory / Path(target).name
        path.write_bytes(left)
        return path


@pytest.fixture
def builds(monkeypatch) -> Builds:
    made = Builds()
    monkeypatch.setattr(workbench.part, "opened", made.opened)
    monkeypatch.setattr(workbench.part, "make", made.make)
    return made


@pytest.fixture
def root(tmp_path) -> Path:
    """Three commits: of lib/x.c, of lib/Makefile, and one that takes lib/x.c away."""
    path = tmp_path / "linux"
    (path / "lib").mkdir(parents=True)
    git(path, "init", "-q", "-b", "main", ".")
    for number, name in enumerate(("x.c", "Makefile")):
        (path / "lib" / name).write_text(f"{number}\n")
        git(path, "add", ".")
        git(path, "commit", "-q", "-m", name)
        git(path, "tag", f"v{number}")
    git(path, "rm", "-q", "lib/x.c")
    git(path, "commit", "-q", "-m", "no x.c")
    git(path, "tag", "v2")
    return path


@pytest.fixture
def commits(root) -> list[str]:
    repository = open_repository(root)
    return [repository.resolve(f"v{number}") for number in range(3)]


def _prober(root: Path, tmp_path: Path, target: str = "lib/x.o", *names: str) -> Prober:
    bench = Workbench(
        HostEngine(),
        {name: Image(name, {}, created=False) for name in names or ("old",)},
        Validation(target, tmp_path / "evidence"),
        tmp_path / "place",
    )
    checkout = check_out(open_repository(root), tmp_path / "ours")
    return Prober(checkout, variant(Platform.NATIVE, "small"), bench)


def test_what_is_found(root, tmp_path, builds, commits) -> None:
    """Findings with keys; the digest tells the object from another."""
    prober = _prober(root, tmp_path)
    builds.leaves["old"] = _object(orc=True)
    right = prober.look(commits[0])
    builds.leaves["old"] = _object(orc=True, behind_push=8)
    wrong = prober.look(commits[1])

    assert right.findings == ()
    assert wrong.findings
    assert all(finding.key for finding in wrong.findings)
    assert right.digest != wrong.digest
    assert right.toolchain == "old"


def test_the_toolchain_that_can(root, tmp_path, builds, commits) -> None:
    """The next one is tried where one fails, and first from then on."""
    prober = _prober(root, tmp_path, "lib/x.o", "old", "new")
    builds.leaves = {"old": BuildError("too old"), "new": _object(orc=True)}

    assert [prober.look(commit).toolchain for commit in commits[:2]] == ["new", "new"]
    assert [name for name, *_ in builds.calls] == ["old", "new", "new"]


def test_no_toolchain_can(root, tmp_path, builds, commits) -> None:
    """Nobody can tell; each one's reason is kept."""
    prober = _prober(root, tmp_path, "lib/x.o", "old", "new")
    builds.leaves = {"old": BuildError("too old"), "new": BuildError("too new")}

    sight = prober.look(commits[0])

    assert sight.findings is None
    assert sight.reason == "old: too old; new: too new"


def test_a_broken_machine_is_no_answer(root, tmp_path, builds, commits) -> None:
    """It is raised, not tried with another toolchain."""
    prober = _prober(root, tmp_path, "lib/x.o", "old", "new")
    builds.leaves = {"old": InfraError("no memory"), "new": _object(orc=True)}

    with pytest.raises(InfraError):
        prober.look(commits[0])


@pytest.mark.parametrize(
    ("data", "reason"),
    [(_object(orc=False), "carries no ORC"), (b"\x7fELF", "cannot be judged")],
    ids=["no table", "damaged"],
)
def test_what_cannot_be_judged(root, tmp_path, builds, commits, data, reason) -> None:
    """That is no good commit."""
    builds.leaves["old"] = data

    sight = _prober(root, tmp_path).look(commits[0])

    assert sight.findings is None
    assert reason in sight.reason


def test_an_object_without_a_source(root, tmp_path, builds, commits) -> None:
    """The finding cannot be there; nothing is built."""
    sight = _prober(root, tmp_path).look(commits[2])

    assert (sight.findings, sight.reason) == ((), "no source of lib/x.o")
    assert builds.calls == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.pl", "print"),
        ("x.c_shipped", "int x;"),
        ("Kbuild", "x-$(CONFIG_X) += a.o\n"),
        ("Makefile", "obj-y += x.o\nx-objs := a.o b.o\n"),
    ],
)
def test_what_else_an_object_is_made_of(root, tmp_path, builds, name, text) -> None:
    """A script that prints it, what is shipped, or the objects that a Makefile lists."""
    (root / "lib" / name).write_text(text)
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", name)
    builds.leaves["old"] = _object(orc=True)
    prober = _prober(root, tmp_path)

    assert prober.look(prober.checkout.repository.resolve("HEAD")).reason == ""


def test_parts_are_not_kept_behind_a_makefile(root, tmp_path, builds) -> None:
    """Only what they are linked to is deleted before it is made."""
    for flags in ("", "OBJECT_FILES_NON_STANDARD_a.o := y\n"):
        (root / "lib" / "Makefile").write_text(f"x-y := a.o b.o\n{flags}")
        git(root, "commit", "-q", "-a", "-m", "parts")
    builds.leaves["old"] = _object(orc=True)
    prober = _prober(root, tmp_path)
    for revision in ("HEAD~", "HEAD"):
        prober.look(prober.checkout.repository.resolve(revision))

    assert [was_kept for _, was_kept, _ in builds.calls] == [False, False]


@pytest.mark.parametrize(("target", "kept"), [("lib/x.o", True), ("vmlinux", False)])
def test_behind_a_makefile(root, tmp_path, builds, commits, target, kept) -> None:
    """A kernel is built anew; one object is, whatever was kept."""
    builds.leaves["old"] = _object(orc=True)
    prober = _prober(root, tmp_path, target)
    prober.look(commits[0])
    prober.look(commits[1])

    assert [was_kept for _, was_kept, _ in builds.calls] == [False, kept]


def test_a_clean_look(root, tmp_path, builds, commits) -> None:
    """In a directory of its own, which is gone; what was judged is kept."""
    builds.leaves["old"] = _object(orc=True)
    prober = _prober(root, tmp_path)
    prober.look(commits[0])

    sight = prober.look(commits[0], clean=True)

    assert [was_kept for _, was_kept, _ in builds.calls] == [False, False]
    assert sight.file is not None
    assert sight.file.read_bytes() == builds.leaves["old"]
    assert sorted(path.name for path in prober.workbench.place.iterdir()) == ["old"]
