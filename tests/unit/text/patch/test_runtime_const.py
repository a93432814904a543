"""Operands that are the values of variables."""

from __future__ import annotations

from harness.text.patch.runtime_const import runtime_consts
from tests.builders.running import TEXT, Kernel, code_of


def test_pointers_and_shifts_are_what_the_variables_hold() -> None:
    """Eight bytes of a pointer, one of a shift; what stands around them stays."""
    kernel = Kernel(
        {
            0: bytes.fromhex("48b8") + bytes.fromhex("efcdab8967452301") + b"\xc3",
            0x10: bytes.fromhex("c1e80c90"),
        },
        tables={
            "runtime_ptr_dentry_hashtable": [TEXT + 2],
            "runtime_shift_d_hash_shift": [TEXT + 0x12],
        },
        variables={
            "dentry_hashtable": (0, 0xFFFF888000123456),
            "d_hash_shift": (0, 0x113),
        },
    )
    edits = runtime_consts(kernel.linked(), kernel.said())
    assert code_of(kernel, edits, TEXT, 11) == bytes.fromhex(
        "48b85634120080" + "88ffffc3"
    )
    assert code_of(kernel, edits, TEXT + 0x10, 4) == bytes.fromhex("c1e81390")


def test_of_a_variable_that_was_dropped_most_operands_tell() -> None:
    """The one that differs is the wrong one."""
    places = [TEXT, TEXT + 8, TEXT + 16]
    kernel = Kernel(
        {0: b"\x01" * 8 + b"\x02" * 8 + b"\x01" * 8},
        tables={"runtime_ptr___names_cache": places},
    )
    edits = runtime_consts(kernel.linked(), kernel.said())
    assert code_of(kernel, edits, TEXT, 24) == b"\x01" * 24


def test_a_single_operand_predicts_nothing_of_itself() -> None:
    """It stays as linked: it will be seen to differ."""
    kernel = Kernel({0: b"\x48\xb8"}, tables={"runtime_ptr_gone": [TEXT + 2]})
    assert runtime_consts(kernel.linked(), kernel.said()) is None
