"""A kernel's memory as it was read, and once more with one byte wrong in it."""

from __future__ import annotations

from harness.boot.readback.taken import WRONG_BY, take
from tests.builders.memory import FakeMemory
from tests.builders.running import ROOM, TEXT, Kernel

KERNEL = Kernel({0: b"\x90"}, init=b"\x90" * 4)


def test_one_byte_of_text_is_wrong_in_the_second_reading() -> None:
    """It is chosen by the seed, and put back."""
    program, memory = KERNEL.linked(), FakeMemory(KERNEL.said().image)
    taken = take(program, memory, init=True, seed=3)
    before = taken.image.section(".text")
    assert before is not None
    wrong = (before.data != taken.control.data).nonzero()[0].tolist()
    assert wrong == [taken.changed - TEXT]
    assert taken.control.data[wrong[0]] == before.data[wrong[0]] ^ WRONG_BY
    assert taken.mended
    assert memory.read(TEXT, ROOM) == before.data.tobytes()
    assert take(program, memory, init=True, seed=4).changed != taken.changed


def test_a_byte_that_cannot_be_put_back_is_told() -> None:
    """The guest is not as it was."""
    memory = FakeMemory(KERNEL.said().image, spoilt=True)
    assert not take(KERNEL.linked(), memory, init=True).mended


def test_what_is_compared_is_code_only() -> None:
    """Variables are the machine's business."""
    taken = take(KERNEL.linked(), FakeMemory(KERNEL.said().image), init=True)
    assert [s.name for s in taken.code.sections] == [".text", ".init.text"]
    assert [s.name for s in taken.controlled.sections] == [".text"]
