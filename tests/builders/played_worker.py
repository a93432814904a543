"""A dask worker's preload: its stages are played, slowly, and what it does is noted.

Builds last until the file ``$PLAYED/go`` is there; ``$PLAYED/log`` has a line for each that
began and ended, with the worker's pid. Who boots a cell for which there is a file
``$PLAYED/kills-<name>`` dies of it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from harness.artifacts import Artifacts, Manifest, load, write_manifest
from harness.build.tree import Tree
from harness.build.workplace import Limit, read_order
from harness.cells import work
from harness.container.image import Image
from harness.result import Stage, StageResult
from harness.stages import runtime
from tests.builders.machines import ScriptedEngine
from tests.builders.results import stage

PLAYED = Path(os.environ.get("PLAYED", "/nowhere"))
LIMIT_S = 60


def note(what: str) -> None:
    """Append one line, whole."""
    with (PLAYED / "log").open("a") as log:
        log.write(f"{what} {os.getpid()}\n")


@contextlib.contextmanager
def connect(_: str) -> Iterator[ScriptedEngine]:
    yield ScriptedEngine()


def ensure(_: object, recipe: work.image.Recipe, *__: object) -> Image:
    return Image(recipe.tag, {recipe.name: "1"}, created=False)


def open_tree(*_: object, package: str) -> Tree:
    return Tree(PLAYED, package, f"{package} 1")


def build(
    shop: work.Shop, variant: work.build.Variant, *_: object
) -> tuple[StageResult, Artifacts | None]:
    key = read_order(shop.tree, variant, shop.toolchain, Limit()).key
    if (found := shop.store.find(key)) is None:
        note(f"begins {key}")
        ends = time.monotonic() + LIMIT_S
        while not (PLAYED / "go").exists() and time.monotonic() < ends:
            time.sleep(0.05)
        with shop.store.adding(key) as entry:
            (entry / "modules").mkdir()
            (entry / "vmlinux").write_text(key)
            made = Manifest(
                key, "native", "native", "tree", "6.12", {}, (), (), {}, 1, 1
            )
            write_manifest(entry, made)
        note(f"built {key}")
        found = load(shop.store.root / key)
    return stage(of=Stage.BUILD), found


def booted(subject: work.Subject, *_: object) -> tuple[list[StageResult], None]:
    note(f"boots {subject.name}")
    if (PLAYED / f"kills-{subject.name}").exists():
        os._exit(9)
    text = subject.kernel.vmlinux.read_text()  # which this worker may not have built
    assert text == subject.kernel.vmlinux.parent.name
    return [stage(of=each, variant=subject.name) for each in runtime.STAGES], None


PLAYED_BY = (
    (work, "connect", connect),
    (work, "open_tree", open_tree),
    (work.image, "ensure", ensure),
    (work.build, "stage", build),
    (work.runtime, "run", booted),
    (work.validate, "stage", lambda _, name, *__: stage(variant=name)),
    (work.kernel_build, "find", lambda directory: directory),
)


def dask_setup(_: object) -> None:
    """Play, from now on; dask calls this when the worker starts."""
    for part in PLAYED_BY:
        setattr(*part)
