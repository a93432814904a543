"""Matrix: the main job, all variants through all stages.

Builds run one after another, each on all cores that it may; what follows a build (validate,
boot, compare, shadow) runs beside the next build, since a booting guest takes one core.
At last what all of them have covered is put together.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct, field

from harness import allowance, kernel_build
from harness.artifacts import Artifacts, Store
from harness.boot.boot import Kernel, kernel_of
from harness.boot.debug import OnStop
from harness.boot.initramfs import Toolbox
from harness.boot.machine import MachineConfig
from harness.build import kept
from harness.build.live import Live, following
from harness.build.tree import PACKAGE, Tree, open_tree
from harness.cache import cache_dir
from harness.container import image
from harness.container.engine import connect
from harness.container.job import Engine
from harness.coverage import Coverage
from harness.errors import UserError
from harness.progress import Progress
from harness.result import (
    ELSEWHERE,
    RunResult,
    Stage,
    StageResult,
    Status,
    run_result,
)
from harness.stages import boot, build, coverage, readback, runtime, shadow, validate
from harness.stages.confirm import confirm
from harness.stages.guard import skipped
from harness.stages.shop import Shop
from harness.stages.subject import Subject
from harness.variant import Platform, Variant, from_config, variant

Board = Callable[[str], Progress]
GUESTS_AT_ONCE = 2
VALIDATE_JOBS = 1  # builds and guests want the cores too


class Request(Struct, frozen=True):
    """What a run is asked to do.

    Attributes:
        tree: kernel source, or None for Debian's.
        package: which one of Debian's.
        profile: ``small`` or ``full``.
        platforms: the variants to build, in this order.
        fragments: Kconfig files, merged into every variant of ``platforms``.
        configs: whole .config files that take part like variants, and where
            each boots.
        toolchain: recipe name of the toolchain image.
        runtime: auto, docker, podman or host.
        jobs: parallel jobs of a build.
        rebuild_images: make the images anew.
        machine: what people override of the machines (QEMU, Xen, CPU model).
        seed: what the sampling of the comparison starts from.
    """

    tree: Path | None = None
    package: str = PACKAGE
    profile: str = "small"
    platforms: tuple[Platform, ...] = tuple(Platform)
    fragments: tuple[Path, ...] = ()
    configs: tuple[tuple[Path, Platform], ...] = ()
    toolchain: str = "bookworm"
    runtime: str = "auto"
    jobs: int = field(default_factory=allowance.jobs)
    rebuild_images: bool = False
    machine: MachineConfig = field(default_factory=MachineConfig)
    seed: int = 0

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The variants of this request, in order."""
        return (
            *(variant(p, self.profile, self.fragments) for p in self.platforms),
            *(from_config(path, platform) for path, platform in self.configs),
        )


OpenTree = Callable[
    [Engine, image.Image, Progress], contextlib.AbstractContextManager[Tree]
]


@contextlib.contextmanager
def workshop(
    request: Request, board: Board, opened: OpenTree | None = None
) -> Iterator[Shop]:
    """Yield the engine with its images and the kernel source, made if need be.

    The source is that of ``request`` unless it is ``opened`` otherwise.

    The machine image is made beside the first build. Orphans of runs that were
    killed are reaped first.

    Raises:
        HarnessError: no engine, no toolchain image or no source.
    """
    with (
        connect(request.runtime) as engine,
        ThreadPoolExecutor(1, thread_name_prefix="images") as background,
    ):
        engine.reap()
        rebuild = request.rebuild_images
        recipe = image.toolchain(request.toolchain)
        toolchain = image.ensure(engine, recipe, board("toolchain"), rebuild=rebuild)
        machine = background.submit(
            image.ensure, engine, image.machine(), board("machine"), rebuild=rebuild
        )
        try:
            with (opened or _snapshot(request))(
                engine, toolchain, board("tree")
            ) as tree:
                store = Store(cache_dir() / "store")
                yield Shop(engine, toolchain, machine, tree, store)
        except BaseException:  # what is being made now is wanted no more
            engine.abort()
            raise


def _snapshot(request: Request) -> OpenTree:
    def opened(
        engine: Engine, toolchain: image.Image, line: Progress
    ) -> contextlib.AbstractContextManager[Tree]:
        return contextlib.nullcontext(
            open_tree(engine, toolchain, request.tree, line, package=request.package)
        )

    return opened


def build_edited(request: Request, tree: Path, board: Board) -> list[Artifacts]:
    """Build what changed of the ``tree`` that somebody works on, in every variant.

    Raises:
        HarnessError: the first that does not build.
    """
    live: list[Live] = []

    @contextlib.contextmanager
    def opened(_: Engine, __: image.Image, line: Progress) -> Iterator[Tree]:
        with following(tree, line) as found:
            live.append(found)
            yield found.tree

    with workshop(request, board, opened) as shop:
        return [
            kept.build(
                shop.engine,
                live[0],
                wanted,
                shop.toolchain,
                shop.store,
                board(wanted.name),
                request.jobs,
            )
            for wanted in request.variants
        ]


def build_variants(request: Request, board: Board) -> tuple[list[Artifacts], str]:
    """Build (or find) every variant of ``request``; for those who want no more.

    With them comes what the user should be told about the source, or nothing.

    Raises:
        HarnessError: the first that does not build.
    """
    with workshop(request, board) as shop:
        built = [
            build.make(shop, wanted, request.jobs, board(wanted.name))
            for wanted in request.variants
        ]
        return built, shop.tree.note


def boot_build(
    request: Request,
    directory: Path,
    platform: Platform,
    board: Board,
    *,
    probed: bool = False,
    shadowed: bool = False,
    saved_bp: bool = False,
    on_stop: OnStop | None = None,
) -> tuple[list[StageResult], dict[str, str]]:
    """Boot what is built in ``directory`` on ``platform``.

    Then compare it if ``probed``, and check what it executes if ``shadowed``, and the
    saved frame pointers, too, if ``saved_bp``.

    With ``on_stop`` the machine stands at the first finding while that is called.

    Returns the stages, and the tools they used.

    Raises:
        HarnessError: no engine, no machine image, or no kernel there.
    """
    kernel = _kernel_in(directory)
    with connect(request.runtime) as engine:
        engine.reap()
        made = image.ensure(engine, image.machine(), board("machine"))
        toolbox = Toolbox(engine, made.tag)
        subject = Subject(
            directory.absolute().name,
            platform,
            kernel,
            lambda: toolbox,
            request.machine,
        )
        line = board(platform.value)
        booted, result = boot.stage(subject, line, on_stop)
        stages = [booted]
        if probed:
            stages += runtime.probe(subject, request.seed, result, line, on_stop)
        if shadowed or saved_bp:
            checked, _ = shadow.stage(subject, result, line, saved_bp=saved_bp)
            stages.append(checked)
    return stages, dict(made.identity)


def read_back_builds(
    request: Request, pairs: Sequence[tuple[Path, Platform]], board: Board
) -> tuple[list[StageResult], dict[str, str]]:
    """Read back what is built in each directory on its platform.

    Returns the stages, and the tools they used.

    Raises:
        HarnessError: no engine, no machine image, or no kernel there.
    """
    kernels = [_kernel_in(directory) for directory, _ in pairs]
    with connect(request.runtime) as engine:
        engine.reap()
        made = image.ensure(engine, image.machine(), board("machine"))
        toolbox = Toolbox(engine, made.tag)
        stages = []
        for (_, platform), kernel in zip(pairs, kernels, strict=True):
            subject = Subject(
                platform.value, platform, kernel, lambda: toolbox, request.machine
            )
            line = board(platform.value)
            stages.append(readback.stage_alone(subject, request.seed, line))
    return stages, dict(made.identity)


def _kernel_in(directory: Path) -> Kernel:
    found = kernel_build.find(directory)
    if found.bzimage is None or not found.kernels:
        raise UserError(
            f"{directory} has no bzImage and vmlinux to boot",
            hint="name the directory of a finished kernel build",
        )
    return Kernel(found.bzimage, found.kernels[0], found.modules)


def run_matrix(request: Request, board: Board) -> RunResult:
    """Do the main job and return what it came to.

    Raises:
        HarnessError: nothing could be done at all (no engine, no image, no tree);
            what goes wrong in one stage is in its result instead.
    """
    started = datetime.now(UTC)
    with workshop(request, board) as shop:
        stages = [*_run_stages(request, shop, board), *elsewhere()]
        tools = _tools(shop)
    tree = f"{shop.tree.name} ({shop.tree.note})" if shop.tree.note else shop.tree.name
    return run_result(request.profile, tree, stages, started=started, tools=tools)


def elsewhere() -> list[StageResult]:
    """Return a MISS for each platform that no machine of ours is."""
    return [
        StageResult(Stage.BOOT, name, Status.MISS, reason=reason)
        for name, reason in ELSEWHERE.items()
    ]


def _run_stages(request: Request, shop: Shop, board: Board) -> list[StageResult]:
    pool = ThreadPoolExecutor(GUESTS_AT_ONCE, thread_name_prefix="guests")
    chains: list[Future[tuple[list[StageResult], Coverage | None]]] = []
    builds: list[StageResult] = []
    try:
        for wanted in request.variants:
            progress = board(wanted.name)
            built, artifacts = build.stage(shop, wanted, request.jobs, progress)
            builds.append(built)
            chains.append(
                pool.submit(_after_build, request, shop, wanted, artifacts, progress)
            )
        rest = [chain.result() for chain in chains]
    except BaseException:  # Ctrl-C: the guests die now, not at their deadlines
        shop.engine.abort()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    parts = {
        wanted.name: part
        for wanted, (_, part) in zip(request.variants, rest, strict=True)
    }
    return [
        *(
            stage
            for built, (later, _) in zip(builds, rest, strict=True)
            for stage in (built, *later)
        ),
        coverage.stage(parts),
    ]


def _after_build(
    request: Request,
    shop: Shop,
    wanted: Variant,
    artifacts: Artifacts | None,
    progress: Progress,
) -> tuple[list[StageResult], Coverage | None]:
    if artifacts is None:
        later = (Stage.VALIDATE, *runtime.STAGES)
        missing = "there is no build"
        return [skipped(stage, wanted.name, missing) for stage in later], None
    found = kernel_build.find(artifacts.directory)
    validated = validate.stage(found, wanted.name, VALIDATE_JOBS, progress)
    subject = Subject(
        wanted.name,
        wanted.platform,
        kernel_of(artifacts),
        lambda: shop.toolbox,
        request.machine,
    )
    ran, part = runtime.run(subject, request.seed, progress)
    progress("done", 1, 1)
    return confirm([validated, *ran]), part


def _tools(shop: Shop) -> dict[str, str]:
    tools = dict(shop.toolchain.identity)
    if shop.machine.exception() is None:
        tools |= shop.machine.result().identity
    return tools
