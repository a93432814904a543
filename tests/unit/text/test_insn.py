"""Instructions as columns and as values."""

from __future__ import annotations

import numpy as np
import pytest

from harness.text.decode import decode_all
from harness.text.insn import InsnKind, join


def test_kinds_that_end_a_path() -> None:
    """Control goes on behind everything but these."""
    ends = {kind.name for kind in InsnKind if not kind.falls_through}
    assert ends == {"JMP", "JMP_INDIRECT", "RET", "TRAP", "UD", "END", "BAD"}


def test_one_instruction() -> None:
    """A row as a value: its own bytes only, its end, its target."""
    insns = decode_all(np.frombuffer(bytes.fromhex("fcebfec3"), np.uint8), 0x100)
    insn = insns.at(1)
    assert (insn.address, insn.end, insn.target) == (0x101, 0x103, 0x101)
    assert (insn.kind, insn.code) == (InsnKind.JMP, b"\xeb\xfe")


def test_rows_of_some_kinds() -> None:
    """A column of its own length tells which rows are asked for; no kind, no row."""
    insns = decode_all(np.frombuffer(bytes.fromhex("90ccc390"), np.uint8), 0)
    assert insns.of_kind(InsnKind.NOP, InsnKind.RET).tolist() == [1, 0, 1, 1]
    assert insns.of_kind().tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_join(count: int) -> None:
    """Parts in address order are one again; none is an empty one."""
    parts = [
        decode_all(np.frombuffer(b"\x90\xc3", np.uint8), 0x1000 * n)
        for n in range(count)
    ]
    joined = join(parts)
    assert len(joined) == 2 * count
    assert joined.address.tolist() == [
        0x1000 * n + i for n in range(count) for i in (0, 1)
    ]
    wanted = np.array([5], np.uint64)
    assert joined.index(wanted).tolist() == [-1]
    assert joined.covering(wanted).tolist() == [-1]
