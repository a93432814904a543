"""Alike: findings that say the same of several places, told once.

One wrong hint in a macro is wrong wherever the macro is used. What the table declares,
what is true instead and the rule are then the same. Each place keeps its own key, by
which it is known or new: only people are told of all of them at once.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from msgspec import Struct

from harness.finding import Finding


class Alike(Struct, frozen=True):
    """The first of several findings, which is shown whole, and the others."""

    first: Finding
    others: tuple[Finding, ...] = ()

    @property
    def places(self) -> int:
        """In how many places the same is wrong."""
        return sum(finding.occurrences for finding in (self.first, *self.others))


def alike(findings: Iterable[Finding]) -> list[Alike]:
    """Group ``findings``, each where its first one is."""
    groups: dict[Hashable, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(_says(finding), []).append(finding)
    return [Alike(first, tuple(others)) for first, *others in groups.values()]


def _says(finding: Finding) -> Hashable:
    """What a finding says of any place: it has to tell both sides."""
    sides = (finding.declared, finding.actual)
    if not all(sides):
        return finding.key
    where = finding.location.object
    return (
        finding.rule,
        where,
        finding.message,
        finding.variant,
        finding.expired,
        *sides,
    )
