"""Refresh: what the cache has of Debian's is made anew where Debian has newer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from msgspec import Struct

from harness.build import tree
from harness.container import apt, image
from harness.container.image import Recipe
from harness.container.job import Engine
from harness.errors import HarnessError
from harness.progress import Progress, silent


class Refreshed(Struct, frozen=True):
    """What became of an image, or of a source.

    Attributes:
        what: ``toolchain-sid``, ``linux-source-6.12``.
        changes: what is newer in it now; empty if nothing was.
        error: why that could not be found out, or done; what there was stays.
    """

    what: str
    changes: tuple[str, ...] = ()
    error: str = ""


def refresh(
    engine: Engine, sources: Mapping[str, str], progress: Progress = silent
) -> list[Refreshed]:
    """Make images and ``sources`` anew that are there, and of which Debian has newer.

    ``sources`` are package -> the suite whose toolchain sees it. Nobody may be using
    the cache. What fails does not keep others from being looked at.
    """
    work = {
        recipe.name: partial(_image, engine, recipe, progress)
        for recipe in image.recipes().values()
        if engine.has_image(recipe.tag)
    } | {
        package: partial(_source, engine, package, suite, progress)
        for package, suite in sources.items()
        if tree.kept(package)
    }
    found: list[Refreshed] = []
    for what, make in work.items():
        progress(f"asking Debian for newer than {what}", len(found), len(work))
        try:
            found.append(Refreshed(what, make()))
        except HarnessError as exc:
            found.append(Refreshed(what, error=str(exc)))
    return found


def _image(engine: Engine, recipe: Recipe, progress: Progress) -> tuple[str, ...]:
    if changes := apt.newer(engine, recipe):
        image.ensure(engine, recipe, progress, rebuild=True)
    return changes


def _source(
    engine: Engine, package: str, suite: str, progress: Progress
) -> tuple[str, ...]:
    before = tree.kept(package)
    toolchain = image.ensure(engine, image.toolchain(suite), progress)
    after = tree.refetch(engine, toolchain, package, progress)
    return () if after == before else (f"{before} -> {after}",)
