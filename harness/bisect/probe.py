"""Probe: looks at commits, in a checkout that is switched in place."""

from __future__ import annotations

import time

from msgspec import Struct
from msgspec.structs import replace

from harness.bisect import source
from harness.bisect.judge import is_linked
from harness.bisect.repository import Checkout
from harness.bisect.sight import ONCE, Sight, Wanted
from harness.bisect.workbench import Item, Workbench
from harness.build.stale import Stale, stale
from harness.build.tree import Tree
from harness.variant import Variant


class Prober(Struct):
    """Looks at commits of one repository, each built as ``variant``."""

    checkout: Checkout
    variant: Variant
    workbench: Workbench

    def look(self, commit: str, wanted: Wanted = ONCE, *, clean: bool = False) -> Sight:
        """Build ``commit`` and judge it; in an empty directory if ``clean``."""
        started = time.monotonic()
        self.checkout.switch(commit)
        target = self.workbench.judge.targets[0]
        linked = is_linked(self.workbench.judge)
        if not linked and not source.is_there(self.checkout.source, target):
            sight = Sight(commit, (), f"no source of {target}", clean=clean)
        else:
            root = self.checkout.repository.root
            item = Item(
                commit, Tree(self.checkout.source, commit, str(root)), self.variant
            )
            sight = self.workbench.look(
                item, wanted, lambda before: self._stale(before, commit), clean=clean
            )
        return replace(sight, seconds=round(time.monotonic() - started, 2))

    def revert(self, commit: str, onto: str, *, merge: bool) -> str | None:
        """Return a commit that is ``onto`` without ``commit``; None on a conflict."""
        return self.checkout.revert(commit, onto, mainline=merge)

    def _stale(self, before: str, commit: str) -> Stale:
        if not self.checkout.knows(before):
            return Stale.ALL
        judge, where = self.workbench.judge, self.checkout.source
        parts = is_linked(judge) or source.is_composite(where, judge.targets[0])
        return stale(self.checkout.changed(before, commit), linked=parts)
