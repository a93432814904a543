"""Lock prefixes of a kernel with one CPU."""

from __future__ import annotations

import pytest

from harness.text.patch.smp_lock import smp_locks
from tests.builders.running import INIT, ROOM, TEXT, Kernel, code_of

INC = bytes.fromhex("f0ff07")


@pytest.mark.parametrize(("alone", "first"), [(1, 0x3E), (0, 0xF0)])
def test_are_turned_only_where_the_kernel_is_alone(alone: int, first: int) -> None:
    """The kernel's own variable says whether it did."""
    kernel = Kernel({0: INC}, variables={"uniproc_patched": (0, alone)})
    kernel.tables[".smp_locks"] = [TEXT]
    edits = smp_locks(kernel.linked(), kernel.said())
    assert code_of(kernel, edits, TEXT, 3) == bytes([first]) + INC[1:]


def test_init_text_and_other_bytes_are_left_alone() -> None:
    """Behind _etext nothing is turned, nor is what is no lock prefix any more."""
    kernel = Kernel({0: b"\x90"}, init=INC, variables={"uniproc_patched": (0, 1)})
    kernel.tables[".smp_locks"] = [TEXT, INIT]
    edits = smp_locks(kernel.linked(), kernel.said())
    assert code_of(kernel, edits, TEXT, 1) == b"\x90"
    assert code_of(kernel, edits, INIT, 1) == b"\xf0"
    assert edits is not None
    assert edits.counts() == {"lock": 1}
    assert INIT > TEXT + ROOM


def test_a_kernel_without_the_table_has_no_such_step() -> None:
    """7.3 has none."""
    kernel = Kernel(variables={"uniproc_patched": (0, 1)})
    assert smp_locks(kernel.linked(), kernel.said()) is None
