"""Lints of a real kernel: silent on it, and sharp on what no stack state shows."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from harness.corpus.classes import CLASSES
from harness.corpus.equivalent import Clean, proof
from harness.corpus.mutant import Change, MutantClass, draw
from harness.elf.feature import image_features
from harness.elf.load import load
from harness.elf.orc import OrcTable
from harness.errors import FormatError
from harness.finding import Finding
from harness.pytest_plugin import Kernel
from harness.text.insn import I64, InsnKind
from harness.verify.columns import Columns, Part, read_columns
from harness.verify.extent import functions
from harness.verify.lints.blind import check_blind
from harness.verify.lints.condition import check_conditions
from harness.verify.lints.length import check_lengths
from harness.verify.lints.patch_site import check_patch_sites
from harness.verify.lints.place import check_places
from harness.verify.lints.replacement import check_replacements
from harness.verify.texts.sites import check_sites

pytestmark = pytest.mark.static

Check = Callable[[Columns], Part]

EACH = 40
# The rule by which a mutant is none: it moved a replacement of no bytes.
NOTHING = "empty-replacement"
FIELDS = ("ip", "sp_offset", "bp_offset", "sp_reg", "bp_reg", "type", "signal", "raw")
LINTS: tuple[Check, ...] = (
    check_lengths,
    check_replacements,
    check_conditions,
    check_patch_sites,
)
# What sees a class, and the least share of its mutants that is seen.
SEEN: dict[str, tuple[float, tuple[Check, ...]]] = {
    "alternative/instrlen": (0.9, (check_lengths, check_places, check_sites)),
    "alternative/replacementlen": (0.95, (check_lengths, check_replacements)),
    "alternative/repl-offset": (0.95, (check_replacements,)),
    "alternative/cpuid": (0.65, (check_conditions,)),
    "alternative/not": (0.65, (check_conditions,)),
    "alternative/direct-call": (0.95, (check_conditions,)),
    "side/return_sites-drop": (0.95, (check_patch_sites,)),
    "side/return_sites-place": (0.95, (check_patch_sites,)),
    "side/retpoline_sites-drop": (0.95, (check_patch_sites,)),
    "side/retpoline_sites-place": (0.95, (check_patch_sites,)),
    "side/call_sites-drop": (0.95, (check_patch_sites,)),
    "side/call_sites-place": (0.95, (check_patch_sites,)),
    "side/static_call_sites-drop": (0.95, (check_patch_sites,)),
    "side/static_call_sites-place": (0.95, (check_patch_sites,)),
    "side/ibt_endbr_seal-place": (0.95, (check_patch_sites,)),
    "side/smp_locks-place": (0.95, (check_patch_sites,)),
}


@functools.cache
def _columns(path: Path) -> Columns:
    program = load(path)
    columns = read_columns(program, image_features(program))
    assert columns is not None
    return columns


@functools.cache
def _clean(path: Path, check: Check) -> frozenset[Finding]:
    return frozenset(check(_columns(path)).findings)


@pytest.mark.parametrize("check", LINTS, ids=lambda check: check.__name__)
def test_silent(kernel: Kernel, check: Check) -> None:
    """Nothing of it is wrong with a kernel that was just built, nor its objects."""
    for path in (*kernel.build.kernels, *kernel.build.relocatables):
        columns = _columns(path)
        assert [str(f.location) for f in check(columns).findings] == []


def test_most_conditions_have_a_witness(kernel: Kernel) -> None:
    """Something tells the feature of nine entries of ten."""
    columns = _columns(kernel.build.kernels[0])
    assert columns.alternatives is not None
    counts = check_conditions(columns).counts
    assert counts["conditions witnessed"] > 0.9 * len(columns.alternatives)


@pytest.mark.parametrize("name", SEEN)
def test_sharp(kernel: Kernel, name: str) -> None:
    """Of the mutants of a class as many are seen as is asked for."""
    path = kernel.build.kernels[0]
    columns, one = _columns(path), CLASSES[name]
    candidates = one.candidates(columns)
    if not len(candidates):
        pytest.skip("this kernel has no such table")
    wanted, checks = SEEN[name]
    missed, drawn = [], 0
    for change in _drawn(one, columns, candidates):
        drawn += 1
        if (mutant := _read(change)) is None:
            continue
        if not any(set(c(mutant).findings) - _clean(path, c) for c in checks):
            place = columns.program.location(change.address)
            missed.append(f"{place}: {change.what}")
    print(f"{name}: {drawn - len(missed)} of {drawn} seen", *missed, sep="\n  ")
    assert drawn > EACH / 2
    assert len(missed) <= drawn * (1 - wanted), missed


def _drawn(one: MutantClass, columns: Columns, candidates: I64) -> Iterator[Change]:
    """Mutants of a class, without those that only seem to change something."""
    clean = Clean(columns)
    for seed in range(EACH):
        change = draw(one, columns, candidates, seed)
        assert change is not None
        if _read(change) is None or proof(clean, change, one.kind) != NOTHING:
            yield change


def _read(change: Change) -> Columns | None:
    try:
        return change.columns
    except FormatError:
        return None


def test_a_lost_function_is_seen(kernel: Kernel) -> None:
    """The table without the entries of a function is as good as before, but for it."""
    path = kernel.build.kernels[0]
    columns = _columns(path)
    table = columns.table.sorted()
    rng = random.Random(20201216)
    start, end = functions(columns.program)
    # __pfx_ symbols are padding that call thunks may be written to
    code = columns.insns.kind[columns.insns.index(start)] != InsnKind.NOP
    missed = []
    for row in rng.sample(np.flatnonzero(code).tolist(), EACH):
        first, last = int(start[row]), int(end[row])
        lost = replace(columns, table=_without(table, first, last))
        found = {finding.location.address for finding in check_blind(lost).findings}
        if first not in found:
            missed.append(str(columns.program.location(first)))
    assert missed == []


def _without(table: OrcTable, first: int, last: int) -> OrcTable:
    """The table, with one undefined entry for all that lies in [first, last)."""
    begin, end = np.searchsorted(table.ip, np.array([first, last], np.uint64)).tolist()
    behind = int(table.find(np.array([last], np.uint64))[0])
    rows = np.r_[0:begin, behind, behind, end : len(table)]
    fields = {name: getattr(table, name)[rows].copy() for name in FIELDS}
    fields["ip"][begin : begin + 2] = first, last
    for name in ("type", "sp_reg", "sp_offset", "bp_reg", "bp_offset"):
        fields[name][begin] = 0
    return replace(table, **fields)
