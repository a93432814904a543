"""Commits: a history made up on a real kernel source, with one bug planted in it.

Of the source only what small objects need is committed, through ``git fast-import``:
seconds for thousands of files and hundreds of commits.
"""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.corpus.plant import Edit, Plant

# What configuring and building a few objects of lib/ reads.
_PARTS = (
    "arch/x86",
    "include",
    "init",
    "kernel",
    "lib",
    "scripts",
    "tools/Makefile",
    "tools/arch/x86",
    "tools/build",
    "tools/include",
    "tools/lib",
    "tools/objtool",
    "tools/scripts",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a history is made of.

    Attributes:
        commits: how many, from the good end's child to the bad end.
        touched: a source file that ordinary commits change, so that its object differs.
        unbuildable, no_ops: how many of them do not build, or change no byte.
    """

    commits: int
    touched: str
    unbuildable: int
    no_ops: int
    seed: int = 0


@dataclass(frozen=True, slots=True)
class History:
    """The repository that was made.

    Attributes:
        good, bad, culprit: hashes.
        unbuildable, no_ops, merges: of which commits.
    """

    root: Path
    good: str
    bad: str
    culprit: str
    unbuildable: frozenset[str]
    no_ops: frozenset[str]
    merges: frozenset[str]


def write_history(
    source: Path, root: Path, plan: Plan, plant: Plant, *, whole: bool = False
) -> History:
    """Make a history of ``plan`` with ``plant`` somewhere in it; one merge, too.

    With ``whole`` all of the source is committed, for what needs a whole kernel.
    """
    _git(root, "init", "-q", "--bare", "-b", "main", ".")
    base = _base(source, root, whole=whole)
    story = _Story(source, plan, plant)
    story.lines.append(f"reset refs/heads/main\nfrom {base}\n".encode())
    for number, kind in enumerate(_kinds(plan)):
        story.tell(number, kind)
    hashes = _import(root, story.lines)
    told = {
        kind: frozenset(hashes[mark] for mark in marks)
        for kind, marks in story.marks.items()
    }
    (culprit,) = told["plant"]
    return History(
        root,
        good=base,
        bad=_git(root, "rev-parse", "main").strip(),
        culprit=culprit,
        unbuildable=told.get("unbuildable", frozenset()),
        no_ops=told.get("no-op", frozenset()),
        merges=told["merge"],
    )


def write_source(source: Path, root: Path, edits: Sequence[Edit]) -> None:
    """Copy what small objects need of ``source`` to ``root``, with ``edits`` in it."""
    for part in _parts(source):
        target = root / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if (source / part).is_dir():
            shutil.copytree(source / part, target, symlinks=True, dirs_exist_ok=True)
        else:
            shutil.copyfile(source / part, target)
    for edit in edits:
        before = (root / edit.file).read_text()
        assert before.count(edit.old) == 1, edit
        (root / edit.file).write_text(before.replace(edit.old, edit.new))


def _kinds(plan: Plan) -> list[str]:
    """Say what each commit is; the first and the last are ordinary ones."""
    chance = random.Random(plan.seed)
    kinds = [""] * plan.commits
    fork = plan.commits // 3
    kinds[fork], kinds[fork + 3] = "fork", "merge"
    middle = range(plan.commits // 4, plan.commits * 3 // 4)
    kinds[chance.choice([n for n in middle if not kinds[n]])] = "plant"
    free = [n for n in range(1, plan.commits - 1) if not kinds[n]]
    odd = chance.sample(free, plan.unbuildable + plan.no_ops)
    for index, number in enumerate(odd):
        kinds[number] = "unbuildable" if index < plan.unbuildable else "no-op"
    return kinds


class _Story:
    """Writes a fast-import stream; remembers what is in the files that it changes."""

    def __init__(self, source: Path, plan: Plan, plant: Plant) -> None:
        self._source, self._path, self._plant = source, plan.touched, plant
        self._text = (source / plan.touched).read_text()
        self._steps: list[str] = []
        self._side = 0
        self._mark = 0
        self.lines: list[bytes] = []
        self.marks: dict[str, list[int]] = {}

    def tell(self, number: int, kind: str) -> None:
        """Write the commit ``number``, of which ``marks`` keeps the kind."""
        if kind not in ("no-op", "plant"):  # that one has to revert cleanly
            self._steps.append(_change(self._path, number))
        files = {"Documentation/step": f"{number}\n"}
        if kind == "plant":
            files = self._planted()
        files[self._path] = self._text + "".join(self._steps)
        if kind == "unbuildable":
            files[self._path] += "\n#error this commit does not build\n"
        merge = self._side if kind == "merge" else 0
        mark = self._commit("main", f"{kind or 'step'} {number}", files, merge)
        self.marks.setdefault(kind, []).append(mark)
        if kind == "fork":
            self.lines.append(f"reset refs/heads/side\nfrom :{mark}\n".encode())
            for step in range(2):
                files = {"Documentation/side": f"{step}\n"}
                self._side = self._commit("side", f"aside {step}", files)

    def _planted(self) -> dict[str, str]:
        files = {self._path: self._text}
        for edit in self._plant.edit:
            before = files.get(edit.file) or (self._source / edit.file).read_text()
            assert before.count(edit.old) == 1, (self._plant.name, edit.file)
            files[edit.file] = before.replace(edit.old, edit.new)
        self._text = files[self._path]
        return files

    def _commit(
        self, branch: str, subject: str, files: dict[str, str], merge: int = 0
    ) -> int:
        self._mark += 1
        text = f"{subject}\n".encode()
        head = (
            f"commit refs/heads/{branch}\nmark :{self._mark}\n"
            f"committer A <a@b> {1_700_000_000 + self._mark * 60} +0000\n"
            f"data {len(text)}\n"
        )
        self.lines.append(head.encode() + text)
        if merge:
            self.lines.append(f"merge :{merge}\n".encode())
        for path, content in files.items():
            data = content.encode()
            head = f"M 100644 inline {path}\ndata {len(data)}\n"
            self.lines.append(head.encode() + data + b"\n")
        return self._mark


def _change(path: str, number: int) -> str:
    """Return a line that makes another object, and no other code."""
    if path.endswith(".S"):
        return f"\n.pushsection .rodata\n.long {number}\n.popsection\n"
    return f"\nconst int orc_step_{number} = {number};\n"


def _base(source: Path, root: Path, *, whole: bool) -> str:
    """Commit the source, through an index of its own: nothing is checked out."""
    paths = ["."] if whole else list(_parts(source))
    options = ("--pathspec-from-file=-", "--pathspec-file-nul")
    add = ("-c", "core.compression=1", "add", "-f", *options)
    work = ("--work-tree", str(source))
    _git(root, *work, *add, text="\0".join(paths), cwd=source)
    tree = _git(root, "write-tree").strip()
    return _git(root, "commit-tree", tree, "-m", "the kernel as it is").strip()


def _parts(source: Path) -> Iterator[str]:
    for path in source.iterdir():
        if path.is_file():
            yield path.name
    yield from _PARTS
    for path in sorted(source.rglob("Kconfig*")):
        yield path.relative_to(source).as_posix()


def _import(root: Path, lines: Sequence[bytes]) -> dict[int, str]:
    marks = root / "marks"
    _git(root, "fast-import", "--quiet", f"--export-marks={marks}", stream=lines)
    rows = (line.split() for line in marks.read_text().splitlines())
    return {int(mark[1:]): commit for mark, commit in rows}


def _git(
    root: Path,
    *argv: str,
    text: str = "",
    stream: Sequence[bytes] = (),
    cwd: Path | None = None,
) -> str:
    identity = ("-c", "user.name=A", "-c", "user.email=a@b")
    where = () if argv[0] == "init" else (f"--git-dir={root}",)
    done = subprocess.run(
        ["git", *where, *identity, *argv],
        cwd=cwd or root,
        input=b"".join(stream) or text.encode(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()
