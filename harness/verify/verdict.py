"""Verdict: what the validation of one program came to."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from harness.errors import HarnessError
from harness.finding import Finding
from harness.verify.kernel import Kernel

_SHOWN = 5  # names in a note


class Exports(Struct, frozen=True):
    """What an object offers to others: all names, and functions that never return."""

    names: frozenset[str] = frozenset()
    silent: frozenset[str] = frozenset()


class Reliance(Struct, frozen=True):
    """An object relies on a function of another one: that it never returns.

    Attributes:
        name: of that function.
        finding: what is wrong if it returns.
    """

    name: str
    finding: Finding


class Verdict(Struct, frozen=True):
    """What the validation of one program came to.

    Attributes:
        findings: numbered and sorted, not grouped by cause.
        counts: what was looked at, by name, in printing order.
        notes: what a reader should know and need not act on.
        seconds: how long it took.
        cached: it was given before, on the same bytes (``archive.py``).
        reliances: what it holds only with, and nobody has answered for.
        exports: what the program offers to modules, if that was asked.
        kernel: what it tells of modules, if only that was asked.
        alone: why the file was not validated with others as one program, as it was
            to be; empty if it was, or was to be alone.
        slow: why decoding it took longer than it could; empty if it did not.
    """

    findings: tuple[Finding, ...]
    counts: dict[str, int]
    notes: tuple[str, ...]
    seconds: float
    cached: bool = False
    reliances: tuple[Reliance, ...] = ()
    exports: Exports | None = None
    kernel: Kernel | None = None
    alone: str = ""
    slow: str = ""

    def answered(self, exports: Iterable[Exports]) -> Verdict:
        """Return the verdict with what others export known.

        What relies on a function that returns is a finding; what nobody exports
        stays open.
        """
        offers = list(exports)
        names = frozenset().union(*(offer.names for offer in offers))
        silent = frozenset().union(*(offer.silent for offer in offers))
        broken = [r.finding for r in self.reliances if r.name in names - silent]
        open_ = tuple(r for r in self.reliances if r.name not in names)
        findings = sorted((*self.findings, *broken), key=lambda finding: finding.order)
        notes = [*self.notes]
        if open_:
            shown = ", ".join(sorted({reliance.name for reliance in open_})[:_SHOWN])
            notes.append(
                f"taken to never return, because no object at hand has it: {shown}"
            )
        return replace(
            self, findings=tuple(findings), notes=tuple(notes), reliances=open_
        )


class Checked(Struct, frozen=True):
    """The verdict on some files of many, or the error that stands in its place.

    ``paths`` are several where small modules were validated as one program.
    """

    paths: tuple[Path, ...]
    verdict: Verdict | None
    error: HarnessError | None = None
