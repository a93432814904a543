"""Needs: how much of a guest has to be sampled for a verdict."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import asdict, replace


class Needs(Struct, frozen=True):
    """How much has to be sampled for a verdict.

    Attributes:
        points: stopped states in all.
        entry_context: of them in entry or interrupt context.
        inside_replacement: distinct instruction starts that only patching made.
        inside_other_cfa: of them with another CFA than their site's start.
        task_stops: how often every task that does not run is asked about.
    """

    points: int = 2000
    entry_context: int = 100
    inside_replacement: int = 50
    inside_other_cfa: int = 0
    task_stops: int = 4

    def missing(self, have: Mapping[str, int]) -> dict[str, str]:
        """Return what is needed and not there yet: name -> how much of how much."""
        wanted: dict[str, int] = asdict(self)
        return {
            name: f"{have.get(name, 0)} of {count}"
            for name, count in wanted.items()
            if have.get(name, 0) < count
        }

    def at_most(self, there: Mapping[str, int]) -> tuple[Needs, list[str]]:
        """Return needs of no more than is ``there``, and notes of what that cost."""
        needs, notes = self, []
        for name, most in there.items():
            if most < (asked := getattr(self, name)):
                needs = replace(needs, **{name: most})
                notes.append(f"this kernel has {most} {name}, not {asked}")
        return needs, notes


NATIVE_NEEDS = Needs(inside_other_cfa=10)
# It cannot be stepped through entry code, nor stopped at instructions of one byte.
KVM_NEEDS = Needs(points=500, entry_context=10, inside_replacement=0)
