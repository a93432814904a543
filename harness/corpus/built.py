"""Built: kernels of other versions and toolchains, on which we have to be silent.

Which ones is data (``configs/builds.toml``). Each is built as any kernel is, in the
image of its toolchain from the source that Debian has, and found in the store again.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from harness import kernel_build
from harness.artifacts import Artifacts, Store
from harness.build import kbuild
from harness.build.tree import PACKAGE, open_tree
from harness.cache import cache_dir
from harness.container import image
from harness.container.job import Engine
from harness.corpus import catalog
from harness.data import CONFIGS
from harness.progress import Progress
from harness.result import Stage, StageResult
from harness.stages import validate
from harness.stages.guard import guard
from harness.variant import Platform, Variant, variant


class Build(Struct, frozen=True):
    """One kernel to build; the fields are those of ``configs/builds.toml``."""

    name: str
    toolchain: str
    package: str = PACKAGE
    profile: str = "small"
    platform: Platform = Platform.NATIVE
    fragments: tuple[str, ...] = ()
    nightly: bool = False

    @property
    def variant(self) -> Variant:
        """What is built: the platform's variant with the features that are added."""
        extra = [CONFIGS / "feature" / f"{name}.config" for name in self.fragments]
        return variant(self.platform, self.profile, extra)


def chosen(prefix: str, nightly: bool) -> list[Build]:
    """Return the builds whose name begins with ``prefix``; the nightly on request.

    Raises:
        FormatError: the file is not TOML of that shape.
        UserError: there is none.
    """
    entries = catalog.read(CONFIGS / "builds.toml", Build)
    return catalog.choose(entries, prefix, nightly=nightly)


def judge(engine: Engine, wanted: Build, jobs: int, progress: Progress) -> StageResult:
    """Build and validate ``wanted``; an ERROR if it cannot be built."""
    return make(engine, wanted, jobs, progress)[0]


def make(
    engine: Engine, wanted: Build, jobs: int, progress: Progress
) -> tuple[StageResult, Artifacts | None]:
    """Return what :func:`judge` does, and the kernel itself if it could be built."""
    kept: list[Artifacts] = []

    def work() -> StageResult:
        toolchain = image.ensure(engine, image.toolchain(wanted.toolchain), progress)
        tree = open_tree(engine, toolchain, None, progress, package=wanted.package)
        made = kbuild.build(
            engine,
            tree,
            wanted.variant,
            toolchain,
            Store(cache_dir() / "store"),
            progress=progress,
            jobs=jobs,
        )
        kept.append(made)
        found = kernel_build.find(made.directory)
        stage = validate.stage(found, wanted.name, jobs, progress)
        tools = made.manifest.toolchain
        compiler = tools.get("clang", tools.get("gcc", wanted.toolchain))
        seconds = f"built in {made.manifest.seconds:.0f} s"
        notes = [f"{tree.name}, {compiler}, {seconds}", *filter(None, [tree.note])]
        return replace(stage, notes=(*notes, *stage.notes))

    return guard(Stage.VALIDATE, wanted.name, work), kept[0] if kept else None
