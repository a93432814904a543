"""Covered: what boots under the plugin have executed and found true, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import Struct
from rich.markup import escape
from rich.table import Table

from harness.result import Kind, Stage, StageResult

_SHOWN = 10  # sites in a terminal; the result has more


class Share(Struct, frozen=True):
    """How many of a kind are reachable on a variant, and verified."""

    variant: str
    kind: Kind
    verified: int
    reachable: int

    @property
    def percent(self) -> float:
        """The share of the reachable."""
        return 100 * self.verified / self.reachable if self.reachable else 0.0

    def __str__(self) -> str:
        """Say both numbers."""
        return f"{self.verified:,} of {self.reachable:,} ({self.percent:.1f} %)"


def covering(stages: Iterable[StageResult]) -> list[StageResult]:
    """Return the stages that have covered something: of each variant, then of all."""
    return [stage for stage in stages if _name(Kind.ENTRIES) in stage.counts]


def shares(stages: Iterable[StageResult]) -> Iterator[Share]:
    """Yield what ``stages`` have covered, kind by kind."""
    found = covering(stages)
    for kind in Kind:
        for stage in found:
            if (share := _share(stage.variant, stage.counts, kind)) is not None:
                yield share


def _name(kind: Kind) -> str:
    return f"{kind}_reachable"


def _share(variant: str, counts: Mapping[str, int], kind: Kind) -> Share | None:
    if _name(kind) not in counts:
        return None
    return Share(variant, kind, counts[f"{kind}_verified"], counts[_name(kind)])


def table(stages: Sequence[StageResult]) -> Table:
    """Return a row per variant, the last of which is all, and a column per kind."""
    drawn = Table(title="executed and verified, of the reachable", expand=False)
    drawn.add_column("", style="bold", no_wrap=True)
    for kind in Kind:
        drawn.add_column(kind.value, justify="right", no_wrap=True)
    for stage in stages:
        of = {kind: _share(stage.variant, stage.counts, kind) for kind in Kind}
        cells = (str(of[kind] or "-").replace(" (", "\n(") for kind in Kind)
        drawn.add_row(escape(stage.variant), *cells)
    return drawn


def hottest(stages: Iterable[StageResult]) -> Iterator[str]:
    """Yield the unverified sites whose functions were executed most."""
    for stage in stages:
        if stage.stage is Stage.COVERAGE and stage.notes:
            yield "sites not verified, by how often their functions' hottest code ran:"
            yield from (f"  {note}" for note in stage.notes[:_SHOWN])
