"""Attribute: where in the source a finding is, and who made it.

It takes a second or two, so that only new findings are looked into, and only some of
many.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from harness.elf.feature import image_features
from harness.elf.line import lines_of
from harness.elf.load import load
from harness.errors import HarnessError
from harness.finding import KERNEL, Finding
from harness.kernel_build import KernelBuild
from harness.verify.blame import Pair, blame, pair
from harness.verify.columns import Columns, read_columns

LOOKED_INTO = 20  # findings


def attribute(findings: Sequence[Finding], found: KernelBuild) -> tuple[Finding, ...]:
    """Return ``findings`` of a build with their lines and culprits, as far as known.

    Lines need debug information in vmlinux, culprits need vmlinux.o beside it.
    """
    kernel = next(iter(found.kernels), None)
    if kernel is None or not any(f.location.object == KERNEL for f in findings):
        return tuple(findings)
    some = [f for f in findings[:LOOKED_INTO] if f.location.object == KERNEL]
    lines = lines_of(kernel, [finding.location.address for finding in some])
    both = _pair(
        kernel, next((p for p in found.relocatables if p.name == "vmlinux.o"), None)
    )
    attributed = [_attributed(f, lines, both) if f in some else f for f in findings]
    return tuple(attributed)


def _attributed(finding: Finding, lines: dict[int, str], both: Pair | None) -> Finding:
    where = finding.location
    line = lines.get(where.address, where.line)
    culprit = blame(finding, both) if both is not None else None
    return replace(
        finding,
        location=replace(where, line=line),
        blame=culprit.value if culprit is not None else finding.blame,
    )


def _pair(kernel: Path, unlinked: Path | None) -> Pair | None:
    if unlinked is None:
        return None
    with contextlib.suppress(HarnessError):  # it has its own verdict
        before, after = _columns(unlinked), _columns(kernel)
        if before is not None and after is not None:
            return pair(after, before)
    return None


def _columns(path: Path) -> Columns | None:
    program = load(path)
    return read_columns(program, image_features(program))
