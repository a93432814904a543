"""Workbench: makes what the finding needs with the first toolchain that can.

Objects and kernels are made in an output directory that is kept for each toolchain; a
clean look has a directory of its own.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from harness.bisect.judge import Judge, Made
from harness.bisect.sight import Sight, Wanted
from harness.build import part
from harness.build.stale import Stale
from harness.build.tree import Tree
from harness.build.workplace import Limit, read_order
from harness.container.image import Image
from harness.container.job import Engine
from harness.errors import FormatError, UserError
from harness.progress import Progress, silent
from harness.variant import Variant

CLEAN = ".clean-"  # output directories of one look
_BUILT = "commit"  # what a kept directory was last built of


class Item(Struct, frozen=True):
    """What is looked at: ``name`` for the answer, the rest to make it."""

    name: str
    tree: Tree
    variant: Variant


class Workbench(Struct):
    """Makes and judges one item after another.

    Attributes:
        images: name -> toolchain; the first that builds an item is taken, and the
            one that built the last item is tried first.
        place: directory of the kept output; nobody else may use it meanwhile.
    """

    engine: Engine
    images: dict[str, Image]
    judge: Judge
    place: Path
    jobs: int = 2
    progress: Progress = silent
    _preferred: str = ""

    def look(
        self,
        item: Item,
        wanted: Wanted,
        stale: Callable[[str], Stale],
        *,
        clean: bool,
    ) -> Sight:
        """Make ``item`` and judge it; in an empty directory if ``clean``.

        ``stale`` tells what is stale in a directory of that which it is given.

        Raises:
            InfraError: the machine failed: that is no answer.
        """
        names = sorted(self.images, key=lambda name: name != self._preferred)
        reasons = []
        for name in names:
            try:
                sight = self._made_with(name, item, wanted, stale, clean)
            except FormatError:
                raise
            except UserError as exc:  # does not build, or cannot be so configured
                reasons.append(f"{name}: {exc.message}" if names[1:] else exc.message)
                continue
            self._preferred = name
            return sight
        return Sight(item.name, None, "; ".join(reasons), clean=clean)

    def _made_with(
        self,
        name: str,
        item: Item,
        wanted: Wanted,
        stale: Callable[[str], Stale],
        clean: bool,
    ) -> Sight:
        self.place.mkdir(parents=True, exist_ok=True)
        sight = Sight(item.name, None, toolchain=name, clean=clean)
        if not clean:
            kept = self.place / name
            return self._made_in(kept, item, sight, wanted, _stale(kept, stale))
        with tempfile.TemporaryDirectory(dir=self.place, prefix=CLEAN) as scratch:
            kept = Path(scratch) / name
            return self._made_in(kept, item, sight, wanted, Stale.ALL)

    def _made_in(
        self, kept: Path, item: Item, sight: Sight, wanted: Wanted, how_stale: Stale
    ) -> Sight:
        if how_stale is Stale.ALL:
            shutil.rmtree(kept, ignore_errors=True)
        limit = Limit(jobs=self.jobs)
        order = read_order(item.tree, item.variant, self.images[sight.toolchain], limit)
        target, *more = self.judge.targets
        with part.opened(self.engine, order, kept, self.progress) as place:
            (kept / _BUILT).unlink(missing_ok=True)
            self.progress(f"building {target} at {item.name[:12]}")
            try:
                file = part.make(
                    place, target, more, reconfigure=how_stale >= Stale.CONFIG
                )
            finally:
                (kept / _BUILT).write_text(item.name)
            made = Made(file, place.out, item.tree.source, place.config)
            return self.judge.judge(made, sight, wanted)


def _stale(kept: Path, stale: Callable[[str], Stale]) -> Stale:
    """Ask of what ``kept`` was built of; a failed build counts as well."""
    try:
        return stale((kept / _BUILT).read_text())
    except FileNotFoundError:
        return Stale.ALL
