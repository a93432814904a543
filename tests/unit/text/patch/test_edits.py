"""What a step writes, and a text that has it."""

from __future__ import annotations

import numpy as np

from harness.text.patch.edits import Step, edits_of, near, target_of, written
from tests.builders.running import TEXT, Kernel


def test_writes_each_code_where_it_belongs() -> None:
    """Codes of different sizes are written at their sites, and nothing else is."""
    kernel = Kernel(init=b"\x90" * 8)
    edits = edits_of(
        Step.ALTERNATIVE, [(TEXT + 4, b"\x01\x02\x03", "b"), (TEXT + 9, b"\x04", "a")]
    )
    code = written(kernel.linked(), edits).read(TEXT, 12).tobytes()
    assert code == bytes.fromhex("cccccccc010203cccc04cccc")
    assert edits.counts() == {"a": 1, "b": 1}


def test_later_edits_of_one_step_win() -> None:
    """Of two texts for one byte the second stays, as it does in the kernel."""
    edits = edits_of(Step.RETURN, [(TEXT, b"\x01\x02", "x"), (TEXT + 1, b"\x03", "x")])
    assert written(Kernel().linked(), edits).read(TEXT, 2).tobytes() == b"\x01\x03"


def test_what_lies_outside_the_code_is_not_written() -> None:
    """An edit beyond the sections changes nothing."""
    edits = edits_of(Step.RETURN, [(TEXT - 2, b"\x01\x02\x03", "x")])
    code = written(Kernel().linked(), edits).read(TEXT, 2).tobytes()
    assert code == b"\x03\xcc"


def test_near_branches_are_encoded_and_read() -> None:
    """A branch from one address to another, forwards and backwards."""
    address = np.array([TEXT + 0x10, TEXT + 0x100], np.uint64)
    target = np.array([TEXT + 0x100, TEXT], np.uint64)
    code = near(b"\xe9", address, target)
    assert code[0].tobytes() == bytes.fromhex("e9eb000000")
    assert code[1].tobytes() == bytes.fromhex("e9fbfeffff")
    assert target_of(address, code, 1).tolist() == target.tolist()
    assert near(b"\x0f\x85", address, target).shape == (2, 6)
