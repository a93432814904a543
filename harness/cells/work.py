"""Work: a cell's kernel is built, validated and booted; each attempt on fresh machines.

Nothing is kept between attempts but the sources and the images: each has its own line to
the container engine, its own containers and guests.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

from msgspec import Struct, field
from msgspec.structs import replace

from harness import kernel_build
from harness.artifacts import Artifacts, Store
from harness.boot.boot import kernel_of
from harness.build.tree import Tree, open_tree
from harness.build.workplace import Limit, Order, read_order
from harness.cache import cache_dir
from harness.cells.cell import Cell
from harness.cells.depot import Depot
from harness.cells.kept import Kept, Results, tried
from harness.cells.key import cell_key, no_key
from harness.container import image
from harness.container.engine import connect
from harness.container.image import Image
from harness.container.job import Engine, refuse_if
from harness.corpus.built import Build
from harness.progress import Progress
from harness.result import Stage, StageResult
from harness.stages import build, runtime, validate
from harness.stages.confirm import confirm
from harness.stages.guard import guard, skipped
from harness.stages.shop import Shop
from harness.stages.subject import Subject

VALIDATE_JOBS = 1  # builds and guests want the cores too
RESULTS = "cells"
STAGES = (Stage.BUILD, Stage.VALIDATE, *runtime.STAGES)
Board = Callable[[str], Progress]


class Terms(Struct, frozen=True):
    """How all cells of a night are made.

    Attributes:
        night: the run's name.
        tree: kernel source, or None for what Debian has of each build's package.
        runtime: auto, docker, podman or host.
        jobs: parallel jobs of a build.
        seed: what the sampling of the comparison starts from.
        again: answer nothing that an earlier night has made.
    """

    night: str
    tree: Path | None = None
    runtime: str = "auto"
    jobs: int = 2
    seed: int = 0
    again: bool = False


class Built(Struct, frozen=True):
    """What is known of some cells' one kernel.

    Attributes:
        kernel: its key, or "" if the machine failed before that was known.
        keys: cell's name -> the key of its result.
        answers: cell's name -> the result, where it is kept already.
        attempts: the build stage of each attempt, if it was built (or found).
        artifacts: the kernel, if there is one.
    """

    kernel: str = ""
    keys: dict[str, str] = field(default_factory=dict)
    answers: dict[str, Kept] = field(default_factory=dict)
    attempts: tuple[StageResult, ...] = ()
    artifacts: Artifacts | None = None


class Maker:
    """Makes cells on this machine; threads may share it."""

    def __init__(self, terms: Terms, board: Board, depot: Depot | None = None) -> None:
        """Make nothing yet; share what is made through ``depot``, if there is one."""
        self.terms = terms
        self._depot = depot
        self.results = Results(cache_dir() / RESULTS)
        self._board = board
        self._store = Store(cache_dir() / "store")
        self._trees: dict[tuple[str, str], Tree] = {}
        self._opening = threading.Lock()
        self._aborted = threading.Event()
        self._living: dict[int, Engine] = {}

    def build(self, cells: Sequence[Cell]) -> Built:
        """Return what answers ``cells``, which share a kernel; build it if need be."""

        def known(shop: Shop) -> Built:
            return self._known(shop, cells)

        built = self._build(cells, known)
        if built.kernel:
            return built
        return replace(self._nameless(cells), attempts=built.attempts)

    def compile(self, cells: Sequence[Cell]) -> Built:
        """Build the kernel of ``cells``, for hosts that look themselves what is kept."""

        def known(shop: Shop) -> Built:
            return Built(self._order(shop, cells[0].build).key)

        return self._build(cells, known)

    def _build(self, cells: Sequence[Cell], known: Callable[[Shop], Built]) -> Built:
        progress = self._board(cells[0].name)
        made = [Built()]

        def attempt() -> list[StageResult]:
            def work() -> StageResult:
                with self._shop(cells[0].build, progress) as shop:
                    found = known(shop)
                    made.append(found)
                    if len(found.answers) == len(cells):
                        return skipped(Stage.BUILD, cells[0].name, "all is answered")
                    stage, artifacts = self._made(shop, cells[0].build, progress)
                    made.append(replace(found, artifacts=artifacts))
                    return _told(stage, artifacts)

            return [guard(Stage.BUILD, cells[0].name, work)]

        attempts = tuple(stage for (stage,) in tried(attempt))
        progress("built" if made[-1].artifacts else "done", 1, 1)
        return replace(made[-1], attempts=attempts)

    def look(self, cell: Cell, kernel: str) -> Built:
        """Return what this host has kept of ``cell``, whose kernel is ``kernel``.

        Raises:
            HarnessError: it cannot be known: no container engine, or no depot.
        """
        if not kernel:
            return self._nameless([cell])
        with self._engine() as engine:
            machine = image.ensure(engine, image.machine(), self._board(cell.name))
            return self._keyed([cell], kernel, machine, engine)

    def judge(self, cell: Cell, built: Built) -> Kept:
        """Return what ``cell`` comes to, and keep it; from what is kept, if it is."""
        if answer := built.answers.get(cell.name):
            return answer
        progress = self._board(cell.name)
        *lost, last = built.attempts
        attempts = [self._unbuilt(cell, stage) for stage in lost]
        tools: dict[str, str] = {}
        artifacts = built.artifacts
        if artifacts is None:
            attempts.append(self._unbuilt(cell, last))
        else:
            first = replace(last, variant=cell.name)

            def attempt() -> list[StageResult]:
                return [first, *self._booted(cell, artifacts, tools, progress)]

            attempts += tried(attempt)
        kept = Kept(
            built.keys[cell.name],
            cell.name,
            self.terms.night,
            tuple(map(tuple, attempts)),
            tools,
            artifacts.manifest.tree if artifacts else "",
            socket.gethostname(),
        )
        refuse_if(self._aborted)  # whatever it is, it is no answer
        self.results.keep(kept)
        if self._depot is not None:
            self._depot.keep(kept)
        progress("done", 1, 1)
        return kept

    def known(self, cells: Sequence[Cell]) -> tuple[Built, bool] | None:
        """Return what is known of ``cells``, and whether their kernel is built.

        None, if an image or the source would have to be made to know.

        Raises:
            HarnessError: no container engine, or no such toolchain.
        """
        wanted = cells[0].build
        with self._engine() as engine:
            recipes = (image.toolchain(wanted.toolchain), image.machine())
            if not all(image.is_present(engine, recipe) for recipe in recipes):
                return None
            debian = cache_dir() / "trees" / wanted.package / "NAME"
            if self.terms.tree is None and not debian.exists():
                return None
            with self._shop(wanted, lambda *_: None) as shop:
                there = build.stored(shop, wanted.variant) is not None
                return self._known(shop, cells), there

    def abort(self) -> None:
        """Kill everything that runs now, in other threads too; nothing starts after it."""
        self._aborted.set()
        for engine in list(self._living.values()):
            engine.abort()

    def _known(self, shop: Shop, cells: Sequence[Cell]) -> Built:
        kernel = self._order(shop, cells[0].build).key
        return self._keyed(cells, kernel, shop.machine.result(), shop.engine)

    def _order(self, shop: Shop, wanted: Build) -> Order:
        return read_order(shop.tree, wanted.variant, shop.toolchain, Limit())

    def _keyed(
        self, cells: Sequence[Cell], kernel: str, machine: Image, engine: Engine
    ) -> Built:
        keys = {
            cell.name: cell_key(cell, kernel, machine, self.terms.seed, engine.runtime)
            for cell in cells
        }
        return Built(kernel, keys, self._answers(keys))

    def _nameless(self, cells: Sequence[Cell]) -> Built:
        keys = {cell.name: no_key(cell, self.terms.night) for cell in cells}
        return Built("", keys, self._answers(keys))

    def _made(
        self, shop: Shop, wanted: Build, progress: Progress
    ) -> tuple[StageResult, Artifacts | None]:
        if self._depot is not None:
            self._depot.take(self._order(shop, wanted).key, self._store)
        stage, artifacts = build.stage(shop, wanted.variant, self.terms.jobs, progress)
        if self._depot is not None and artifacts is not None:
            self._depot.put(artifacts)
        return stage, artifacts

    def _answers(self, keys: dict[str, str]) -> dict[str, Kept]:
        """Return what is kept: of this night whatever it is, of others verdicts."""
        found = {name: self._find(key) for name, key in keys.items()}
        return {
            name: kept
            for name, kept in found.items()
            if kept is not None
            and (
                kept.night == self.terms.night or (kept.final and not self.terms.again)
            )
        }

    def _find(self, key: str) -> Kept | None:
        """Return what is kept here, unless the depot has better."""
        found = self.results.find(key)
        if self._depot is None or (found is not None and found.final):
            return found
        return self._depot.find(key) or found

    def kernel(self, key: str) -> Artifacts | None:
        """Return a kernel that was built, wherever that was.

        Raises:
            InfraError: the depot does not answer, or what it has is damaged.
        """
        if self._depot is None:
            return self._store.find(key)
        return self._depot.take(key, self._store)

    def _unbuilt(self, cell: Cell, stage: StageResult) -> list[StageResult]:
        why = "there is no build"
        rest = [skipped(each, cell.name, why) for each in STAGES[1:]]
        return [replace(stage, variant=cell.name), *rest]

    def _booted(
        self, cell: Cell, artifacts: Artifacts, tools: dict[str, str], line: Progress
    ) -> list[StageResult]:
        found = kernel_build.find(artifacts.directory)
        validated = validate.stage(found, cell.name, VALIDATE_JOBS, line)
        ran: list[StageResult] = []

        def work() -> StageResult:
            with self._shop(cell.build, line) as shop:
                subject = Subject(
                    cell.name,
                    cell.boot.platform,
                    kernel_of(artifacts),
                    lambda: shop.toolbox,
                    cell.config,
                )
                objection = cell.boot.objection
                ran[:], _ = runtime.run(subject, self.terms.seed, line, objection)
                tools.update(shop.machine.result().identity)
            return ran[0]

        first = guard(Stage.BOOT, cell.name, work)
        if not ran:  # no machine to run it on
            rest = [
                skipped(each, cell.name, first.reason) for each in runtime.STAGES[1:]
            ]
            ran = [first, *rest]
        return confirm([validated, *ran])

    @contextlib.contextmanager
    def _engine(self) -> Iterator[Engine]:
        """Yield a fresh line to the engine, after what dead owners left is reaped."""
        refuse_if(self._aborted)
        with connect(self.terms.runtime) as engine:
            engine.reap()
            self._living[id(engine)] = engine
            if self._aborted.is_set():  # while it connected
                engine.abort()
            try:
                yield engine
            finally:
                del self._living[id(engine)]

    @contextlib.contextmanager
    def _shop(self, wanted: Build, progress: Progress) -> Iterator[Shop]:
        with self._engine() as engine:
            recipe = image.toolchain(wanted.toolchain)
            toolchain = image.ensure(engine, recipe, progress)
            machine: Future[Image] = Future()
            machine.set_result(image.ensure(engine, image.machine(), progress))
            with self._opening:
                tree = self._tree(engine, toolchain, wanted, progress)
            yield Shop(engine, toolchain, machine, tree, self._store)

    def _tree(
        self, engine: Engine, toolchain: Image, wanted: Build, progress: Progress
    ) -> Tree:
        """Return the source, as it was when it was first asked for."""
        where = (wanted.toolchain if self.terms.tree is None else "", wanted.package)
        if where not in self._trees:
            self._trees[where] = open_tree(
                engine, toolchain, self.terms.tree, progress, package=wanted.package
            )
        return self._trees[where]


def _told(stage: StageResult, artifacts: Artifacts | None) -> StageResult:
    """Return the build stage with the source and the compiler in its notes."""
    if artifacts is None:
        return stage
    manifest = artifacts.manifest
    compiler = manifest.toolchain.get("clang") or manifest.toolchain.get("gcc", "")
    return replace(stage, notes=(f"{manifest.tree}, {compiler}", *stage.notes))
