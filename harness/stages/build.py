"""Build: a variant from source to the store, and what the tools said on the way."""

from __future__ import annotations

from harness.artifacts import Artifacts
from harness.build import kbuild
from harness.progress import Progress
from harness.result import Stage, StageResult
from harness.stages.guard import guard, judged
from harness.stages.shop import Shop
from harness.variant import Variant


def make(shop: Shop, variant: Variant, jobs: int, progress: Progress) -> Artifacts:
    """Return the artifacts of ``variant``, from the store if they are there.

    Raises:
        UserError: the tree cannot have what the variant asks for.
        BuildError: it does not configure or compile.
        InfraError: the machine failed.
    """
    return kbuild.build(
        shop.engine,
        shop.tree,
        variant,
        shop.toolchain,
        shop.store,
        progress=progress,
        jobs=jobs,
    )


def stored(shop: Shop, variant: Variant) -> Artifacts | None:
    """Return the artifacts of ``variant`` if they are in the store."""
    return kbuild.stored(shop.tree, variant, shop.toolchain, shop.store)


def stage(
    shop: Shop, variant: Variant, jobs: int, progress: Progress
) -> tuple[StageResult, Artifacts | None]:
    """Build ``variant``; return the stage and, if there are any, its artifacts.

    What objtool and modpost warned about is judged with our own findings, in the
    validate stage, where it is joined with them by place.
    """
    made: list[Artifacts] = []

    def work() -> StageResult:
        before = set(shop.store.keys())
        artifacts = make(shop, variant, jobs, progress)
        made.append(artifacts)
        manifest = artifacts.manifest
        fresh = manifest.key not in before
        counts = {
            "compiled": manifest.compiled if fresh else 0,
            "modules": len(manifest.modules),
        }
        where = f"artifacts: {artifacts.directory}"
        return judged(Stage.BUILD, variant.name, (), counts, [where])

    return guard(Stage.BUILD, variant.name, work), made[0] if made else None
