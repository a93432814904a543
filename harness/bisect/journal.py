"""Journal: the state file of a bisection: JSON lines, only ever added to.

Every line is on the disk before the next commit is built, so that a kill, or a power
cut, costs one step. A line that was cut short while it was written is dropped.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Struct, field

from harness.bisect.answer import Answer
from harness.bisect.question import Question
from harness.errors import FormatError, InfraError, UserError
from harness.finding import Finding

VERSION = 1


class Asked(Struct, frozen=True, tag="asked", tag_field="kind"):
    """The first line: which bisection this is."""

    question: Question
    version: int = VERSION


class Told(Struct, frozen=True, tag="told", tag_field="kind"):
    """One commit's answer; a later one of the same commit holds."""

    answer: Answer


class Sought(Struct, frozen=True, tag="sought", tag_field="kind"):
    """The finding that is looked for, as it is at the bad end.

    ``shown`` is in how many of the first looks there it was, ``others`` how many more
    findings are there that the good end has not.
    """

    finding: Finding
    shown: int = 1
    others: int = 0


class Distrusted(Struct, frozen=True, tag="distrusted", tag_field="kind"):
    """Answers so far that are not ``clean`` count no more: a clean build differed."""

    reason: str


Line = Asked | Told | Sought | Distrusted


class Journal(Struct):
    """An open state file.

    Attributes:
        lines: all that it holds, the first ``Asked`` aside.
    """

    path: Path
    _file: BinaryIO
    lines: list[Line] = field(default_factory=list)

    def add(self, line: Line) -> None:
        """Write ``line`` and wait until the disk has it.

        Raises:
            InfraError: it cannot be written.
        """
        try:
            self._file.write(msgspec.json.encode(line) + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as exc:
            with contextlib.suppress(OSError):  # or it is tried again at the end
                self._file.close()
            raise InfraError(f"cannot write {self.path}: {exc.strerror}") from exc
        self.lines.append(line)

    @property
    def sought(self) -> Sought | None:
        """The finding that is looked for, once it is known."""
        found = [line for line in self.lines if isinstance(line, Sought)]
        return found[-1] if found else None

    @property
    def distrusted(self) -> bool:
        """Whether only clean builds count."""
        return any(isinstance(line, Distrusted) for line in self.lines)

    @property
    def answers(self) -> dict[str, Answer]:
        """The answers that count, by commit, in the order they came."""
        counting: dict[str, Answer] = {}
        for line in self.lines:
            if isinstance(line, Told):
                counting.pop(line.answer.commit, None)
                counting[line.answer.commit] = line.answer
            if isinstance(line, Distrusted):
                counting = {c: a for c, a in counting.items() if a.clean}
        return counting


@contextlib.contextmanager
def begin(path: Path, question: Question) -> Iterator[Journal]:
    """Open a new state file at ``path``; one that holds answers is kept as ``path.old``.

    Raises:
        UserError: another process bisects with it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        with path.open("rb") as old:
            _lock(old, path)
            if old.read().count(b"\n") > 1:
                path.replace(path.with_name(f"{path.name}.old"))
            else:
                path.unlink()
    with path.open("xb") as file:
        _lock(file, path)
        journal = Journal(path, file)
        journal.add(Asked(question))
        journal.lines.clear()
        _sync(path.parent)
        yield journal


@contextlib.contextmanager
def resume(path: Path, question: Question) -> Iterator[Journal]:
    """Open the state file at ``path`` that ``question`` left.

    Raises:
        UserError: there is none, it is another question's, or is in use.
        FormatError: it is none of ours.
    """
    require(path)
    with path.open("r+b") as file:
        _lock(file, path)
        data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        first, *lines = _parse(path, whole)
        if not isinstance(first, Asked) or first.version != VERSION:
            raise FormatError(f"{path} is no state file of this orc-harness")
        if first.question != question:
            raise UserError(
                f"{path} belongs to another bisection: {first.question.good[:12]} to "
                f"{first.question.bad[:12]}, {first.question.target}",
                hint="leave --resume out to begin anew",
            )
        file.truncate(len(whole))
        file.seek(len(whole))
        yield Journal(path, file, lines)


def require(path: Path) -> None:
    """Raise UserError if there is nothing at ``path`` to resume."""
    if not path.exists():
        raise UserError(
            f"there is nothing to resume: no {path}",
            hint="leave --resume out, or ask for the same ends, finding, target, "
            "configuration and toolchains as then (HEAD moves)",
        )


def _parse(path: Path, data: bytes) -> Sequence[Line]:
    lines: list[Line] = []
    for number, text in enumerate(data.splitlines(), 1):
        try:
            lines.append(msgspec.json.decode(text, type=Line))
        except ValueError as exc:
            raise FormatError(
                f"{path}:{number} is not a line of a state file: {text[:80]!r}",
                hint="leave --resume out to begin anew",
            ) from exc
    if not lines:
        raise FormatError(f"{path} is empty", hint="leave --resume out to begin anew")
    return lines


def _lock(file: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{path} is in use: another bisection runs") from None


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
