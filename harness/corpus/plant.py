"""Plant: a bug of the kernel's history, put into a source tree of today.

Plants are data (``configs/plants/*.toml``): what is edited, who would be to blame,
whether objtool says a word, and which rule has to see it where: the verifier's, or one
of those that look at a kernel as it runs.
"""

from __future__ import annotations

import contextlib
import enum
import fnmatch
import hashlib
import os
import shutil
import tomllib
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from harness.build.tree import Tree
from harness.cache import cache_dir
from harness.data import CONFIGS
from harness.errors import FormatError, UserError
from harness.finding import Finding
from harness.result import Stage

PLANTS = CONFIGS / "plants"


class Blame(enum.StrEnum):
    """Who made it wrong: what the ``blame`` of a verifier's finding begins with."""

    HINT = "source hint"
    CODE = "compiler"  # or whoever wrote assembly
    OBJTOOL = "objtool"
    LINKER = "linker"
    SORTTABLE = "sorttable"
    KERNEL = "kernel"  # the table is right: what patches or unwinds at run time is not


class Heard(enum.StrEnum):
    """Whether a tool said anything when it was measured."""

    SILENT = "silent"
    NOISY = "noisy"


class Edit(Struct, frozen=True):
    """One replacement in one file; ``old`` must be there exactly once."""

    file: str
    old: str
    new: str


class Plant(Struct, frozen=True):
    """One bug to plant.

    Attributes:
        name: the data file's.
        bug: the commit or report that it is made after.
        reason: what is wrong in the kernel that comes out.
        blame: who made it.
        objtool: what objtool says, as measured.
        rules: patterns; a finding of one of them has to be there, of each oracle.
        edit: what is changed in the source.
        row: the bug's number in the project's list, 0 if it is not in it.
        symbols: patterns of where that finding lies.
        profile: how much of a kernel has to be built.
        oracles: the stages that have to see it.
        verifier: what the verifier says if it is none of them, as measured.
    """

    name: str
    bug: str
    reason: str
    blame: Blame
    objtool: Heard
    rules: tuple[str, ...]
    edit: tuple[Edit, ...]
    row: int = 0
    symbols: tuple[str, ...] = ("*",)
    profile: str = "small"
    oracles: tuple[Stage, ...] = (Stage.VALIDATE,)
    verifier: Heard = Heard.SILENT

    @property
    def static(self) -> bool:
        """The verifier has to see it, and to blame the right one."""
        return Stage.VALIDATE in self.oracles

    @property
    def runs(self) -> bool:
        """It is seen as the kernel runs."""
        return any(stage is not Stage.VALIDATE for stage in self.oracles)

    @property
    def digest(self) -> str:
        """Hash what it changes."""
        text = "\0".join(f"{e.file}\0{e.old}\0{e.new}" for e in self.edit)
        return hashlib.sha256(text.encode()).hexdigest()

    def seen_by(self, findings: Iterable[Finding]) -> list[Finding]:
        """Return those of ``findings`` that are the one it asks for."""
        return [
            finding
            for finding in findings
            if any(fnmatch.fnmatchcase(finding.rule, rule) for rule in self.rules)
            and any(
                fnmatch.fnmatchcase(finding.location.symbol, symbol)
                for symbol in self.symbols
            )
        ]


_PLANTED = " + "


def read_plants(directory: Path = PLANTS) -> list[Plant]:
    """Read every plant below ``directory``, by name.

    Raises:
        FormatError: one lacks a field, or is not TOML.
    """
    return [_read(path) for path in sorted(directory.glob("*.toml"))]


def _read(path: Path) -> Plant:
    try:
        data = tomllib.loads(path.read_text())
        return msgspec.convert({"name": path.stem, **data}, Plant)
    except ValueError as exc:
        raise FormatError(
            f"{path} is not a plant: {exc}",
            hint="bug, reason, blame, objtool, rules and [[edit]] are all needed",
        ) from exc


def named(tree: Tree, plant: Plant) -> Tree:
    """Return what ``tree`` is called with ``plant`` in it, which it has not yet."""
    digest = hashlib.sha256(f"{tree.digest} {plant.digest}".encode()).hexdigest()
    return replace(tree, digest=digest, name=f"{tree.name}{_PLANTED}{plant.name}")


@contextlib.contextmanager
def planted(tree: Tree, plant: Plant) -> Iterator[Tree]:
    """Yield a copy of ``tree`` with ``plant`` in it; it is deleted afterwards.

    Files are linked, and only those that are edited are written anew.

    Raises:
        UserError: the tree has not the text that the plant replaces.
    """
    target = cache_dir() / "trees" / f".planted-{uuid.uuid4().hex[:12]}"
    try:
        shutil.copytree(tree.source, target, symlinks=True, copy_function=os.link)
        for edit in plant.edit:
            apply(target, plant.name, edit)
        yield replace(named(tree, plant), source=target)
    finally:
        shutil.rmtree(target, ignore_errors=True)


def is_planted(tree: str) -> bool:
    """Tell whether the tree of that name has a plant in it."""
    return _PLANTED in tree


def apply(root: Path, name: str, edit: Edit) -> None:
    """Make one edit below ``root``; the file that was linked there stays as it is.

    Raises:
        UserError: the text is not there, or more than once.
    """
    path = root / edit.file
    text = path.read_text() if path.is_file() else ""
    if (count := text.count(edit.old)) != 1:
        raise UserError(
            f"plant {name} does not fit: its text is {count} times in {edit.file}",
            hint="the plants are made for the default tree",
        )
    mode = path.stat().st_mode
    path.unlink()
    path.write_text(text.replace(edit.old, edit.new))
    path.chmod(mode)
