"""Branches that are a jump or a NOP by their key."""

from __future__ import annotations

import pytest

from harness.text.patch.jump_label import jump_labels
from harness.text.patch.nops import NOPS
from tests.builders.running import EXIT, INIT, TEXT, Kernel, code_of, near

GOAL = TEXT + 0x40
FAR, CLOSE = near(b"\xe9", TEXT, GOAL), bytes([0xEB, 0x3E])


@pytest.mark.parametrize(
    ("enabled", "branch", "jumps"),
    [(0, 0, False), (1, 0, True), (0, 1, True), (1, 1, False), (0xFFFFFFFF, 0, True)],
)
@pytest.mark.parametrize("linked", [NOPS[5], FAR, NOPS[2], CLOSE])
def test_are_what_the_key_and_the_entry_say(
    enabled: int, branch: int, jumps: bool, linked: bytes
) -> None:
    """A key that is being enabled (-1) counts as on; the size stays as linked."""
    kernel = Kernel({0: linked.ljust(8, b"\x90")}, variables={"key": (0, enabled)})
    kernel.labels = [(TEXT, GOAL, kernel.address("key") | branch)]
    edits = jump_labels(kernel.linked(), kernel.said())
    size = len(linked)
    wanted = {2: CLOSE, 5: FAR}[size] if jumps else NOPS[size]
    assert code_of(kernel, edits, TEXT, 8) == wanted.ljust(8, b"\x90")


def test_init_text_is_patched_and_exit_text_is_not() -> None:
    """jump_label_can_update(): .exit.text is no kernel text."""
    kernel = Kernel(init=NOPS[5], exits=NOPS[5], variables={"key": (0, 1)})
    key = kernel.address("key")
    kernel.labels = [(INIT, GOAL, key), (EXIT, GOAL, key)]
    edits = jump_labels(kernel.linked(), kernel.said())
    assert code_of(kernel, edits, INIT, 5) == near(b"\xe9", INIT, GOAL)
    assert code_of(kernel, edits, EXIT, 5) == NOPS[5]


def test_up_to_5_12_nops_are_the_cpus_own_everywhere() -> None:
    """arch_jump_label_transform_static(): in .exit.text, too, where it is a NOP."""
    own = bytes.fromhex("6666666690")
    kernel = Kernel({0: NOPS[5]}, exits=NOPS[5] * 2)
    kernel.variables = {"table": (0, 0), "ideal_nops": (0, 0), "on": (0, 0)}
    kernel.variables |= {"off": (1, 1)}
    kernel.rodata = {"nop": own}
    at = kernel.said().address("nop")
    # the tenth pointer of a table whose entries lie sixteen apart from here on
    table = kernel.address("table")
    kernel.variables["ideal_nops"] = (0, table - 8 * 9)
    kernel.variables["table"] = (0, at)
    kernel.labels = [
        (TEXT, GOAL, kernel.address("on")),
        (EXIT, GOAL, kernel.address("on")),
        (EXIT + 5, GOAL, kernel.address("off")),
    ]
    kernel.variables["table"] = (0, kernel.said().address("nop"))
    edits = jump_labels(kernel.linked(), kernel.said())
    assert code_of(kernel, edits, TEXT, 5) == own
    assert code_of(kernel, edits, EXIT, 10) == own + NOPS[5]


def test_a_kernel_without_the_table_has_no_such_step() -> None:
    """CONFIG_JUMP_LABEL=n."""
    kernel = Kernel()
    assert jump_labels(kernel.linked(), kernel.said()) is None
