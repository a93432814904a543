"""Entries that are made wrong, and what became of them in a boot."""

from __future__ import annotations

import numpy as np

from harness.corpus.executed import EDITS, OFTEN, score, spoil
from harness.elf.orc import OrcFormat, OrcReg, OrcTable, OrcType

ROWS = 400
CALLS = 300


def table() -> OrcTable:
    """Calls, based on %rsp and %rbp in turn, then register frames."""
    kinds = np.where(np.arange(ROWS) < CALLS, OrcType.CALL, OrcType.REGS)
    bases = np.where(np.arange(ROWS) % 2, OrcReg.BP, OrcReg.SP)
    return OrcTable(
        ip=np.arange(ROWS, dtype=np.uint64) * np.uint64(16),
        sp_offset=np.full(ROWS, 32, dtype=np.int16),
        bp_offset=np.where(bases == OrcReg.BP, -16, 0).astype(np.int16),
        sp_reg=bases.astype(np.uint8),
        bp_reg=np.where(bases == OrcReg.BP, OrcReg.PREV_SP, 0).astype(np.uint8),
        type=kinds.astype(np.uint8),
        signal=np.zeros(ROWS, dtype=bool),
        raw=np.zeros(ROWS, dtype=np.uint16),
        format=OrcFormat.V3,
        from_header=True,
    )


def verified() -> np.ndarray:
    """Only the first 200 were often enough."""
    return np.where(np.arange(ROWS) < 200, OFTEN, OFTEN - 1).astype(np.uint64)


def test_only_calls_that_are_often_executed_are_made_wrong() -> None:
    """Each in another way than it was, the rest as it was."""
    clean = table()
    spoilt = spoil(clean, verified(), 100, seed=0)

    assert len(spoilt.rows) == len(set(spoilt.rows.tolist())) == 100
    assert spoilt.rows.max() < 200
    assert {*spoilt.edits} == {*EDITS}
    assert (spoilt.table.state[spoilt.rows] != clean.state[spoilt.rows]).all()
    same = np.delete(np.arange(ROWS), spoilt.rows)
    assert (spoilt.table.state[same] == clean.state[same]).all()


def test_the_same_seed_makes_the_same_mutants() -> None:
    """A miss can be looked at again."""
    first, second, other = (spoil(table(), verified(), 50, seed) for seed in (1, 1, 2))

    assert first.rows.tolist() == second.rows.tolist()
    assert first.edits == second.edits
    assert first.rows.tolist() != other.rows.tolist()


def test_no_more_than_there_are() -> None:
    """A boot that executes little gives few."""
    assert len(spoil(table(), verified(), 1000, seed=0).rows) == 100


def test_no_two_are_neighbours() -> None:
    """They could agree on one wrong frame, of which the first alone is told."""
    for seed in range(5):
        rows = spoil(table(), verified(), 1000, seed).rows
        assert np.diff(rows).min() > 1


def test_only_what_was_executed_counts() -> None:
    """A miss is told in words; what was not executed again is none."""
    clean = table()
    spoilt = spoil(clean, verified(), 100, seed=0)
    executed = np.full(ROWS, 7, dtype=np.uint64)
    executed[spoilt.rows[:20]] = 0
    result = score(spoilt, clean, executed, spoilt.rows[30:])

    assert (result.made, result.executed, len(result.missed)) == (100, 80, 10)
    assert result.recall == 1 - 10 / 80
    assert not result.met
    row = int(spoilt.rows[20])
    assert result.missed[0].startswith(f"{spoilt.edits[20]} of {16 * row:#x}: ")
    assert result.missed[0].endswith(", executed 7 times")
    assert score(spoilt, clean, executed, spoilt.rows).met


def test_a_boot_that_executed_none_is_no_success() -> None:
    """Nothing seen of nothing is not everything."""
    clean = table()
    spoilt = spoil(clean, verified(), 10, seed=0)

    assert not score(spoilt, clean, np.zeros(ROWS, np.uint64), spoilt.rows).met
