"""Blame on a real kernel: a plant in vmlinux, in vmlinux.o, or in both."""

from __future__ import annotations

import functools
import random
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from harness.elf.feature import image_features
from harness.elf.load import load
from harness.elf.orc import OrcReg, OrcTable, OrcType
from harness.pytest_plugin import Kernel
from harness.verify.blame import Culprit, Pair, blame, pair
from harness.verify.check import check_columns
from harness.verify.columns import Columns, read_columns

pytestmark = pytest.mark.static

FIELDS = ("ip", "sp_offset", "bp_offset", "sp_reg", "bp_reg", "type", "signal", "raw")


@functools.cache
def _columns(path: Path) -> Columns:
    program = load(path)
    columns = read_columns(program, image_features(program))
    assert columns is not None
    return columns


@functools.cache
def _pair(kernel: Path, unlinked: Path) -> Pair:
    return pair(_columns(kernel), _columns(unlinked))


@functools.cache
def _keys(path: Path) -> frozenset[str]:
    return frozenset(f.key for f in check_columns(_columns(path)).findings)


def _both(kernel: Kernel) -> Pair:
    unlinked = [p for p in kernel.build.relocatables if p.name == "vmlinux.o"]
    if not unlinked:
        pytest.skip("needs vmlinux.o beside vmlinux")
    return _pair(kernel.build.kernels[0], unlinked[0])


def _ordinary(table: OrcTable) -> int:
    """A row in the middle of a function: %rsp moved, and the next one differs."""
    rng = random.Random("20201215")
    while True:
        row = rng.randrange(len(table) - 1)
        call = table.type[row : row + 2] == OrcType.CALL
        on_sp = table.sp_reg[row : row + 2] == OrcReg.SP
        moved = table.sp_offset[row : row + 2]
        if call.all() and on_sp.all() and moved.min() > 8 and moved[0] != moved[1]:
            return row


def _shifted(table: OrcTable, row: int) -> OrcTable:
    """The CFA of one entry is eight bytes off."""
    offsets = table.sp_offset.copy()
    offsets[row] += 8
    return replace(table, sp_offset=offsets)


def _swapped(table: OrcTable, row: int) -> OrcTable:
    """Two entries have each other's state."""
    fields = {name: getattr(table, name).copy() for name in FIELDS}
    for name in FIELDS[1:]:
        fields[name][[row, row + 1]] = fields[name][[row + 1, row]]
    return replace(table, **fields)


def _blamed(both: Pair, before: frozenset[str]) -> set[Culprit | None]:
    findings = check_columns(both.linked).findings
    new = [finding for finding in findings if finding.key not in before]
    assert new
    return {blame(finding, both) for finding in new}


def test_what_came_after_vmlinux_o(kernel: Kernel) -> None:
    """An entry that the linker changed, and two that sorttable mixed up."""
    both, before = _both(kernel), _keys(kernel.build.kernels[0])
    table = both.linked.table.sorted()
    row = _ordinary(table)

    for plant, culprit in (
        (_shifted, Culprit.LINKER),
        (_swapped, Culprit.SORTTABLE),
    ):
        linked = replace(both.linked, table=plant(table, row))
        assert _blamed(replace(both, linked=linked), before) == {culprit}


def test_what_was_in_vmlinux_o(kernel: Kernel) -> None:
    """The same wrong entry in both is objtool's, where no hint stands."""
    both, before = _both(kernel), _keys(kernel.build.kernels[0])
    table, earlier = both.linked.table.sorted(), both.object.table.sorted()
    row = _ordinary(table)
    section = {
        s.index: s
        for s in both.object.program.sections
        if s.index in both.shift
        and s.address <= int(table.ip[row]) - both.shift[s.index] < s.end
    }
    ((index, _),) = section.items()
    home = np.uint64(int(table.ip[row]) - both.shift[index])
    there = int(earlier.find(np.array([home]))[0])

    linked = replace(both.linked, table=_shifted(table, row))
    unlinked = replace(both.object, table=_shifted(earlier, there))

    assert _blamed(pair(linked, unlinked), before) == {Culprit.OBJTOOL}
