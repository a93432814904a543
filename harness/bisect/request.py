"""Request: a bisection as people ask for it, and what it takes to do one."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from msgspec import Struct, field

from harness import allowance
from harness.bisect import journal, replay, source
from harness.bisect.answer import Answer
from harness.bisect.asking import Asking, answered
from harness.bisect.bisection import Bisection
from harness.bisect.hunt import Hunt
from harness.bisect.oracle import VALIDATOR, Oracle
from harness.bisect.probe import Prober
from harness.bisect.question import LINKED, Question
from harness.bisect.repository import Repository, check_out, open_repository
from harness.bisect.sight import Wanted
from harness.bisect.workbench import CLEAN, Workbench
from harness.cache import cache_dir, require_space, try_locked
from harness.container import image
from harness.container.engine import connect
from harness.container.image import Image
from harness.container.job import Engine
from harness.errors import InfraError, UserError
from harness.kconfig import read_fragments
from harness.progress import Progress
from harness.variant import Variant

Board = Callable[[str], Progress]
SPACE = 4 << 30  # a checkout, and a kernel's output


class Request(Struct, frozen=True):
    """What is looked for, where, and how it is built.

    Attributes:
        tree: a git repository.
        variant: what is configured.
        finding: a key; empty: what the bad end has and the good end has not.
        target: ``vmlinux``, or an object: the least that shows the finding.
        toolchains: recipe names; the first that builds a commit is taken.
        oracle: who says whether a commit has it.
    """

    tree: Path
    variant: Variant
    finding: str = ""
    target: str = LINKED
    toolchains: tuple[str, ...] = (image.DEFAULT_TOOLCHAIN,)
    oracle: Oracle = VALIDATOR
    runtime: str = "auto"
    jobs: int = field(default_factory=allowance.jobs)


class Room(Struct, frozen=True):
    """Where one repository is bisected; everything below ``directory`` is ours."""

    repository: Repository
    directory: Path

    def state(self, question: Question) -> Path:
        """Where the state file of ``question`` is."""
        name = hashlib.sha256(repr(question).encode()).hexdigest()[:16]
        return self.directory / f"{name}.jsonl"


def find_room(tree: Path) -> Room:
    """Return the room of the repository ``tree``.

    Raises:
        UserError: it is no repository, or a shallow one.
    """
    repository = open_repository(tree)
    name = hashlib.sha256(str(repository.root).encode()).hexdigest()[:16]
    return Room(repository, cache_dir() / "bisect" / name)


def bisect(
    request: Request,
    good: str,
    bad: str,
    board: Board,
    *,
    resume: bool = False,
    log: Path | None = None,
) -> Bisection:
    """Find the commit between ``good`` and ``bad`` that made the finding.

    Answers of an earlier run are kept if it is to ``resume``; those of ``log`` (of
    ``git bisect log``) are believed.

    Raises:
        UserError: the ends, the repository or the log are not what they should be.
        InfraError: the machine failed; it can be resumed.
    """
    room = find_room(request.tree)
    repository = room.repository
    question = Question(
        tree=str(repository.root),
        good=repository.resolve(good),
        bad=repository.resolve(bad),
        variant=identity(request.variant),
        target=request.target,
        toolchains=request.toolchains,
        finding=request.finding,
        oracle=str(request.oracle),
    )
    dag = repository.between(question.good, question.bad)
    replayed = _replayed(log, repository) if log else {}
    state = room.state(question)
    opening = journal.begin
    if resume:
        journal.require(state)
        opening = journal.resume
    files = state.with_suffix(".files")
    with (
        _prober(request, room, files, board) as prober,
        opening(state, question) as kept,  # nothing is replaced before all is ready
        resumable(),
    ):
        asking = Asking(question, prober, kept, board("bisect"), request.oracle.quorum)
        return Hunt(dag, asking, prober, replayed).run()


def step(request: Request, board: Board) -> Answer:
    """Say of the commit that is checked out in the tree whether the finding occurs.

    Raises:
        UserError: there is no such finding, kernel or target, or what is in the tree is
            not what is committed.
        InfraError: the machine failed: that is no answer.
    """
    require_key(request.finding)
    room = find_room(request.tree)
    commit = room.repository.resolve("HEAD")
    room.repository.require_kernel(commit)
    if dirty := room.repository.dirty():
        raise UserError(
            f"{request.tree} is dirty: {dirty[0]} is not as it was committed",
            hint="commits are judged, so commit or stash it",
        )
    _require_source(request, room.repository)
    files = room.directory / "files"
    wanted = Wanted(request.finding, request.oracle.quorum.looks)
    with _prober(request, room, files, board) as prober:
        sight = prober.look(commit, wanted)
    return answered(sight, request.finding)


def require_key(finding: str) -> None:
    """Raise UserError if no finding is named: every commit would be good."""
    if not finding:
        raise UserError(
            "--finding is empty", hint="it takes a key, as bisect prints it"
        )


def _require_source(request: Request, repository: Repository) -> None:
    """Raise UserError if no commit has the target: every one would be good."""
    if request.target == LINKED or source.is_there(request.tree, request.target):
        return
    if not source.was_ever(repository, request.target):
        raise UserError(
            f"no commit of {repository.root} has a source of {request.target}",
            hint="--target takes a path from the top of the tree: lib/hweight.o",
        )


@contextlib.contextmanager
def _prober(
    request: Request, room: Room, files: Path, board: Board
) -> Iterator[Prober]:
    """Yield a prober with all that it takes; the room is ours meanwhile.

    What clean looks judged is kept in ``files``.
    """
    what = str(room.repository.root)
    with equipped(room.directory, what, request.runtime, request.toolchains, board) as (
        engine,
        images,
    ):
        kind = LINKED if request.target == LINKED else "objects"
        workbench = Workbench(
            engine,
            images,
            request.oracle.judge(
                request.target, request.variant.platform, engine, files, board
            ),
            room.directory / f"{kind}-{identity(request.variant).split()[-1]}",
            request.jobs,
            board("probe"),
        )
        checkout = check_out(room.repository, room.directory)
        yield Prober(checkout, request.variant, workbench)


@contextlib.contextmanager
def equipped(
    directory: Path,
    what: str,
    runtime: str,
    toolchains: Sequence[str],
    board: Board,
) -> Iterator[tuple[Engine, dict[str, Image]]]:
    """Yield the engine and the toolchains; ``directory`` is ours meanwhile.

    Raises:
        UserError: ``what`` is being bisected by somebody else.
        InfraError: no engine, no image, or no space.
    """
    require_space(directory, SPACE, f"bisecting {what}")
    with connect(runtime) as engine, try_locked(directory / "lock") as free:
        if not free:
            raise UserError(f"{what} is being bisected already")
        engine.reap()
        images = {
            name: image.ensure(engine, image.toolchain(name), board("toolchain"))
            for name in toolchains
        }
        for left in directory.glob(f"*/{CLEAN}*"):  # by one that was killed
            shutil.rmtree(left, ignore_errors=True)
        yield engine, images


@contextlib.contextmanager
def resumable() -> Iterator[None]:
    """Say with every failure of the machine how to go on."""
    try:
        yield
    except InfraError as exc:
        hints = [exc.hint] if exc.hint else []
        hints.append("what was answered is kept: --resume goes on")
        raise InfraError(exc.message, hint="; ".join(hints)) from exc


def identity(variant: Variant) -> str:
    """Name what is configured, and hash what is in its files."""
    base = variant.base
    try:
        text = base.read_text() if isinstance(base, Path) else base
    except OSError as exc:
        raise UserError(f"cannot read {base}: {exc.strerror}") from exc
    wanted = [str(request) for request in read_fragments(variant.fragments)]
    digest = hashlib.sha256(repr((text, wanted)).encode()).hexdigest()[:12]
    return f"{variant.name} {digest}"


def _replayed(log: Path, repository: Repository) -> dict[str, Answer]:
    try:
        text = log.read_text(errors="replace")  # subjects may be in any encoding
    except OSError as exc:
        raise UserError(f"cannot read {log}: {exc.strerror}") from exc
    answers = {}
    for outcome, revision in replay.parse(text, str(log)).answers:
        commit = repository.resolve(revision)
        answers[commit] = replay.answer(outcome, commit)
    return answers
