"""Executed: wrong entries of the table that a boot under the plugin must see.

A clean boot tells which entries were executed and found true. Of those some are made
wrong, all in one table, and the kernel is booted with that: each that is executed
again is seen, or missed. The kernel itself has its own table, which is right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

from harness.boot.boot import Kernel
from harness.boot.initramfs import Toolbox
from harness.boot.machine import MachineConfig
from harness.boot.shadow.shadow import check, sorted_table
from harness.elf.orc import OrcEntry, OrcReg, OrcTable, OrcType, describe, unpack
from harness.elf.program import Program
from harness.errors import InfraError
from harness.progress import Progress
from harness.variant import Platform

# Executed as often in the clean boot, an entry is executed in the next one, too.
OFTEN = 100
RECALL = 0.99

Edit = Callable[[OrcEntry], OrcEntry]


def _other_base(entry: OrcEntry) -> OrcEntry:
    base = OrcReg.BP if entry.sp_reg == OrcReg.SP else OrcReg.SP
    return replace(entry, sp_reg=base)


def _no_bp(entry: OrcEntry) -> OrcEntry:
    # the return address: it is there whatever was saved, and is no %rbp
    return replace(entry, bp_reg=OrcReg.PREV_SP, bp_offset=-8)


EDITS: Mapping[str, Edit] = {
    "sp_offset+8": lambda entry: replace(entry, sp_offset=entry.sp_offset + 8),
    "sp_offset-8": lambda entry: replace(entry, sp_offset=entry.sp_offset - 8),
    "sp_reg": _other_base,
    "bp": _no_bp,
}


class Spoilt(Struct, frozen=True):
    """A sorted table with wrong entries.

    Attributes:
        rows: i64[k], ascending, which they are.
        edits: what was done to each.
    """

    table: OrcTable
    rows: npt.NDArray[np.int64]
    edits: tuple[str, ...]


class Score(Struct, frozen=True):
    """What became of the wrong entries.

    Attributes:
        made: how many there are.
        executed: how many of them were, in the boot with the wrong table.
        missed: those of the executed that were not seen, each in words.
    """

    made: int
    executed: int
    missed: tuple[str, ...]

    @property
    def recall(self) -> float:
        """The share of the executed that was seen."""
        return 1 - len(self.missed) / self.executed if self.executed else 0.0

    @property
    def met(self) -> bool:
        """Enough of them were seen."""
        return self.recall >= RECALL


def measure(
    toolbox: Toolbox,
    kernel: Kernel,
    platform: Platform,
    program: Program,
    count: int,
    seed: int,
    progress: Progress,
) -> Score:
    """Boot ``kernel`` twice under the plugin: with its table, and with a spoilt one.

    Raises:
        See :func:`harness.boot.shadow.shadow.shadow`.
    """
    orc, config = sorted_table(program), MachineConfig()
    progress("booting with the table as it is")
    clean = check(toolbox, kernel, platform, config, program, orc)
    if clean.died:
        raise InfraError(clean.died)
    spoilt = spoil(orc, clean.seen.verified, count, seed)
    progress(f"booting with {len(spoilt.rows)} wrong entries")
    again = check(toolbox, kernel, platform, config, program, spoilt.table, "bp=on")
    seen = np.unique([one.row for one in again.record.mismatches])
    return score(spoilt, orc, again.seen.executed, seen.astype(np.int64))


def spoil(
    table: OrcTable, verified: npt.NDArray[np.uint64], count: int, seed: int
) -> Spoilt:
    """Make ``count`` entries of calls wrong, of those that were ``verified`` often.

    No two of them are neighbours: in a row of pops both would claim the same wrong
    frame, and only the first that does is told.
    """
    random = np.random.default_rng(seed)
    calls = (table.type == OrcType.CALL) & np.isin(table.sp_reg, (OrcReg.SP, OrcReg.BP))
    often = np.flatnonzero(calls & (verified >= np.uint64(OFTEN)))
    often = often[often % 2 == random.integers(2)]
    rows = np.sort(random.choice(often, min(count, len(often)), replace=False))
    names = tuple(random.choice(list(EDITS), len(rows)).tolist())
    columns = {
        name: getattr(table, name).copy()
        for name in ("sp_offset", "bp_offset", "sp_reg", "bp_reg")
    }
    for row, name in zip(rows.tolist(), names, strict=True):
        entry = EDITS[name](unpack(table.one(row)))
        for field, column in columns.items():
            column[row] = getattr(entry, field)
    return Spoilt(replace(table, **columns), rows, names)


def score(
    spoilt: Spoilt,
    clean: OrcTable,
    executed: npt.NDArray[np.uint64],
    seen: npt.NDArray[np.int64],
) -> Score:
    """Compare what was ``executed`` (of each row) with the rows ``seen`` to be wrong."""
    again = executed[spoilt.rows] > 0
    missed = again & ~np.isin(spoilt.rows, seen)
    return Score(
        len(spoilt.rows),
        int(again.sum()),
        tuple(
            f"{spoilt.edits[at]} of {clean.ip[row]:#x}: {describe(clean.one(row))} -> "
            f"{describe(spoilt.table.one(row))}, "
            f"executed {executed[row]} times"
            for at in np.flatnonzero(missed).tolist()
            for row in [int(spoilt.rows[at])]
        ),
    )
