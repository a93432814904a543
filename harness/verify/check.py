"""Check: the whole validation of one program."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from msgspec.structs import replace

from harness import allowance
from harness.beside import beside
from harness.elf.feature import Features, image_features
from harness.elf.program import Program
from harness.finding import Finding, number, settled
from harness.text.decode import Decoding, slow_because
from harness.verify.columns import Columns, Part, read_columns
from harness.verify.edges.wholesale import absorb, few
from harness.verify.kernel import Kernel
from harness.verify.verdict import Exports, Verdict

if TYPE_CHECKING:
    from harness.elf.debug_frame import FrameRows

WORTH_A_FORK = 200_000  # instructions


def check(
    program: Program,
    *,
    features: Features | None = None,
    vmlinux: Program | None = None,
    threads: int | None = None,
    offers: bool = False,
    frames: FrameRows | None = None,
    kernel: Kernel | None = None,
    ahead: Decoding | None = None,
) -> Verdict:
    """Validate ``program``: its ORC table against its code and its alternatives.

    ``features`` names the feature bits; without it the names are those that the
    image (of ``vmlinux``, if ``program`` is a module) holds itself. With ``offers``
    the verdict says what ``program`` exports to modules. ``frames`` is what the
    compiler told of its own, to be compared, ``kernel`` what the kernel of a module
    tells of it (by default ``vmlinux`` is asked), ``ahead`` its code, of which the
    decoding has begun.

    Raises:
        FormatError: a section that must be read has no layout that we know.
    """
    started = time.perf_counter()
    names = features or image_features(vmlinux or program)
    columns = read_columns(program, names, threads, ahead)
    if columns is None:
        note = "carries no ORC: nothing to validate"
        verdict = Verdict((), {}, (*program.notes, note), 0.0)
    else:
        if kernel is None and vmlinux is not None:
            from harness.verify.witness import kernel_of

            kernel = kernel_of(vmlinux)
        verdict = check_columns(
            replace(columns, offers=offers, frames=frames, kernel=kernel),
            alone=threads == 1,
        )
    if vmlinux is not None and verdict.reliances:
        verdict = verdict.answered([exports(vmlinux, threads)])
    seconds = time.perf_counter() - started
    return replace(verdict, seconds=seconds, slow=slow_because())


def exports(vmlinux: Program, threads: int | None = None) -> Exports:
    """Return what ``vmlinux`` offers to modules."""
    columns = read_columns(vmlinux, image_features(vmlinux), threads)
    if columns is None:
        return Exports()
    return follow(replace(columns, offers=True)).exports or Exports()


def check_columns(columns: Columns, *, alone: bool = True) -> Verdict:
    """Validate a program that is read already; on two cores, unless ``alone``.

    Half of the work on a kernel is to follow its text, the other half is all else.
    """
    started = time.perf_counter()
    counts = {"orc entries": len(columns.table), "instructions": len(columns.insns)}
    notes = [*columns.program.notes, f"ORC format {columns.table.format}"]
    forked = not alone and len(columns.insns) > WORTH_A_FORK and allowance.cores() > 1
    if forked:
        _ = columns.lookup, columns.starts, columns.state  # what both halves need
    with beside(lambda: [*map(_shown, lint(columns))], forked=forked) as others:
        parts = [follow(columns), *others()]
    for part in parts:
        counts |= part.counts
        notes += part.notes
    return Verdict(
        findings=_drawn_once(
            number(absorb(f for part in parts for f in part.findings))
        ),
        counts=counts,
        notes=tuple(notes),
        seconds=time.perf_counter() - started,
        reliances=tuple(
            replace(r, finding=settled(r.finding))
            for part in parts
            for r in part.reliances
        ),
        exports=next((part.exports for part in parts if part.exports), None),
    )


# What is checked, in printing order. Each half is imported where it is done: that takes
# as long as half of what it does on a small kernel.


def follow(columns: Columns) -> Part:
    """Check the text, which takes as long as all the rest."""
    from harness.verify.edges.flow import check_flow

    return _told(check_flow, columns)


def lint(columns: Columns) -> list[Part]:
    """Check all but the text: sites, the table, the lists of places, the views."""
    from harness.verify.lints.blind import check_blind
    from harness.verify.lints.condition import check_conditions
    from harness.verify.lints.entry import check_entries
    from harness.verify.lints.fault import check_faults
    from harness.verify.lints.length import check_lengths
    from harness.verify.lints.order import check_order
    from harness.verify.lints.patch_site import check_patch_sites
    from harness.verify.lints.place import check_places
    from harness.verify.lints.replacement import check_replacements
    from harness.verify.lints.table import check_table
    from harness.verify.texts.paravirt import check_paravirt
    from harness.verify.texts.sites import check_sites
    from harness.verify.texts.view import check_views

    checks: tuple[Callable[[Columns], Part], ...] = (
        check_sites,
        check_places,
        check_table,
        check_lengths,
        check_replacements,
        check_conditions,
        check_order,
        check_patch_sites,
        check_blind,
        check_entries,
        check_faults,
        check_paravirt,
        check_views,
    )
    if columns.frames is not None:
        from harness.verify.lints.dwarf import check_dwarf

        checks = (*checks, check_dwarf)
    return [_told(one, columns) for one in checks]


def _told(one: Callable[[Columns], Part], columns: Columns) -> Part:
    part = one(columns)
    return replace(part, findings=tuple(few(part.findings)))


def _shown(part: Part) -> Part:
    """Return ``part`` with the windows that are shown: the others need no pipe."""
    return replace(part, findings=_drawn_once(number(part.findings)))


def _drawn_once(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Keep only the first window of each cause: no other is ever shown."""
    seen = set[str]()
    kept = []
    for finding in findings:
        again = finding.key in seen
        seen.add(finding.key)
        kept.append(replace(finding, window=()) if again else settled(finding))
    return tuple(kept)
