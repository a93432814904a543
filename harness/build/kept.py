"""Kept: the kernel of a tree that somebody edits, in an output directory that is kept.

An edit costs what make makes of it, not a kernel. What make would wrongly take for up
to date is made anew (``stale.py``). What comes out of an empty directory is as good as
any build and goes into the store; what comes out of a kept one is stored beside the
tree, since nobody else should have to believe in it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from harness.artifacts import MANIFEST, Artifacts, Store
from harness.build import collect, log, part
from harness.build.live import Live
from harness.build.snapshot import keep_files, load_files
from harness.build.stale import Stale, stale
from harness.build.workplace import Limit, Order, Workplace, read_order
from harness.container.image import Image
from harness.container.job import Engine
from harness.progress import Progress
from harness.variant import Variant

KEPT_EDITS = 8
USED_S = 3600.0  # nobody tests a build for longer than this, and it is there still
_BUILT = "files.json"  # what a kept directory was last built of
_LOG = "said.log"  # what its build's tools said of what they were not run on again


def build(
    engine: Engine,
    live: Live,
    variant: Variant,
    image: Image,
    store: Store,
    progress: Progress,
    jobs: int,
) -> Artifacts:
    """Return the kernel ``variant`` of ``live``; build what changed of it.

    Raises:
        UserError: the tree cannot have what the fragments ask for.
        BuildError: it does not configure or compile; the log is kept.
        InfraError: memory, disk, time or the engine failed.
    """
    order = read_order(live.tree, variant, image, Limit(jobs))
    edits = Store(live.directory / "edits")
    if found := store.find(order.key) or edits.find(order.key):
        return found
    directory = live.directory / f"out-{variant.name}-{_recipe(order)}"
    how_stale = _stale(directory / _BUILT, live.files)
    if (
        how_stale >= Stale.CONFIG
    ):  # modules that it has no more would be taken for its own
        how_stale = Stale.ALL
        shutil.rmtree(directory, ignore_errors=True)
    with part.opened(engine, order, directory, progress) as place:
        (directory / _BUILT).unlink(missing_ok=True)
        try:
            part.make_whole(place, reconfigure=how_stale is Stale.ALL)
        finally:
            keep_files(live.files, directory / _BUILT)
            _carry(place)
        into = store if how_stale is Stale.ALL else edits
        made = collect.collect(place, into, shutil.copy2)
    _prune(edits)
    return made


def _recipe(order: Order) -> str:
    """Name all that decides what comes out, but the source."""
    return replace(order, tree=replace(order.tree, digest="")).key[:12]


def _stale(built: Path, files: Mapping[str, str]) -> Stale:
    before = load_files(built)
    if not before:
        return Stale.ALL
    paths = {path for path, _ in before.items() ^ files.items()}
    return stale(paths, linked=True)


def _carry(place: Workplace) -> None:
    """Add to the log what earlier builds said of objects that this one left alone."""
    said = place.scratch / _LOG
    now = place.log.read_text(errors="replace") if place.log.exists() else ""
    before = said.read_text() if said.exists() else ""
    still = [
        line for name, line in log.untouched(before, now) if (place.out / name).exists()
    ]
    whole = "\n".join([*still, now])
    said.write_text(whole)
    place.log.write_text(whole)


def _prune(edits: Store) -> None:
    """Delete builds of old edits, but none that may be looked at still."""
    entries = sorted(
        edits.root.glob(f"*/{MANIFEST}"), key=lambda path: -path.stat().st_mtime
    )
    for entry in entries[KEPT_EDITS:]:
        if time.time() - entry.stat().st_mtime > USED_S:
            shutil.rmtree(entry.parent, ignore_errors=True)
