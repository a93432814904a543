"""Probe: makes configurations whole with the tree's own Kconfig, and looks at them."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from harness.bisect.sight import ONCE, Looker, Sight, Wanted
from harness.bisect.workbench import Item, Workbench
from harness.build import part
from harness.build.stale import Stale
from harness.build.tree import Tree
from harness.build.workplace import Limit, read_order
from harness.variant import Platform, Variant

_SUFFIX = ".config"


class Resolver(Looker, Protocol):
    """Looks at configurations, by the hash of what they come to."""

    def resolve(self, text: str) -> str:
        """Return the hash of what ``text`` comes to after ``olddefconfig``.

        Raises:
            InfraError: the machine failed.
        """
        ...

    def read(self, name: str) -> str:
        """Return the .config whose hash is ``name``."""
        ...


class ConfigProber(Struct):
    """Looks at configurations of one tree.

    Attributes:
        configs: directory of all that were resolved; each is named by its hash.
    """

    tree: Tree
    platform: Platform
    workbench: Workbench
    configs: Path

    def end(self, variant: Variant) -> str:
        """Return the hash of what ``variant`` comes to.

        Raises:
            UserError: the tree cannot have it.
        """
        (name, chosen), *_ = self.workbench.images.items()
        order = read_order(self.tree, variant, chosen, Limit(self.workbench.jobs))
        bench = self.workbench
        kept = bench.place / name  # where it is built then, if its answer is not known
        with part.opened(bench.engine, order, kept, bench.progress) as place:
            text = part.resolve(place).read_text()
        digest = hashlib.sha256(text.encode()).hexdigest()
        (self.configs / f"{digest}{_SUFFIX}").write_text(text)
        return digest

    def resolve(self, text: str) -> str:
        """Return the hash of what ``text`` comes to after ``olddefconfig``."""
        asked = self.configs / f"asked{_SUFFIX}"
        asked.write_text(text)
        return self.end(self._variant(asked))

    def read(self, name: str) -> str:
        """Return the .config whose hash is ``name``."""
        return (self.configs / f"{name}{_SUFFIX}").read_text()

    def look(self, commit: str, wanted: Wanted = ONCE, *, clean: bool = False) -> Sight:
        """Build the configuration whose hash is ``commit``, and judge it."""
        started = time.monotonic()
        variant = self._variant(self.configs / f"{commit}{_SUFFIX}")
        sight = self.workbench.look(
            Item(commit, self.tree, variant),
            wanted,
            lambda before: Stale.NOTHING if before == commit else Stale.CONFIG,
            clean=clean,
        )
        return replace(sight, seconds=round(time.monotonic() - started, 2))

    def _variant(self, config: Path) -> Variant:
        """Return what ``config`` makes; all have one name, for logs and for ccache."""
        return Variant("config", self.platform, (), base=config)
