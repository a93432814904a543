"""The model of get_stack_info() on a crafted image and memory."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from harness.boot.stack_info import (
    ENTRY,
    IRQ,
    TASK,
    cpu_stacks,
    per_cpu_base,
    stack_layout,
)
from harness.errors import FormatError
from tests.builders import guest, image


def test_layout_comes_from_the_image() -> None:
    """Offsets that only debug information would tell are found in the data."""
    layout = stack_layout(image.image()[0])
    assert layout.current_task == image.PER_CPU["pcpu_hot"]
    assert layout.hardirq_stack_ptr == (0x118, 0x120)
    assert layout.task_stack == image.TASK_STACK
    assert layout.thread_size == image.THREAD_SIZE
    assert layout.irq_stack_size == image.IRQ_SIZE
    assert layout.tss_size == image.TSS_SIZE
    assert layout.estacks == ((0x1000, 0x2000, 5), (0x4000, 0x2000, 6))


def test_missing_symbol_is_named() -> None:
    """An image without its symbols is refused, with the one that is missing."""
    program, _ = image.image(symbols={"_stext": 0})
    with pytest.raises(FormatError, match="has no symbol current_task"):
        stack_layout(program)


def test_all_stacks_of_a_cpu() -> None:
    """Task, exception, irq and entry stacks lie where per-CPU data says."""
    layout = stack_layout(image.image()[0])
    simulated = guest.SimulatedGuest()
    cpu = cpu_stacks(layout, guest.GS_BASE, simulated.bytes_at)
    stacks, _ = cpu.current(simulated.read_many, guest.SP, 64)
    kinds = {info.type: (info.begin, info.end) for info in stacks.all}
    assert cpu.double_fault_top == guest.DOUBLE_FAULT_TOP
    assert kinds == {
        TASK: (guest.STACK, guest.STACK + 0x4000),
        5: (guest.ESTACKS + 0x1000, guest.ESTACKS + 0x3000),
        6: (guest.ESTACKS + 0x4000, guest.ESTACKS + 0x6000),
        IRQ: (guest.IRQ_STACK, guest.IRQ_STACK + 0x4000),
        ENTRY: (guest.ESTACKS - 0x6000, guest.ESTACKS - 0x5000),
    }
    assert stacks.find(guest.ESTACKS + 0x3000) is None  # a guard page
    found = stacks.find(guest.STACK)
    assert found is not None
    assert found.type == TASK


def test_irq_stack_pointer_behind_the_call_depth() -> None:
    """With call depth tracking hardirq_stack_ptr lies one word further."""
    layout = stack_layout(image.image()[0])
    simulated = guest.SimulatedGuest()
    hot = guest.GS_BASE + image.PER_CPU["pcpu_hot"]
    simulated.word(hot + 0x18, guest.STACK + 0x4000)  # top_of_stack
    simulated.word(hot + 0x20, guest.IRQ_STACK + 0x3FF8)
    cpu = cpu_stacks(layout, guest.GS_BASE, simulated.bytes_at)
    irq = next(info for info in cpu.fixed if info.type == IRQ)
    assert irq.end == guest.IRQ_STACK + 0x4000


@pytest.mark.parametrize("last", [0, 8], ids=["up to 5.11", "since 5.12"])
def test_irq_stack_pointer_of_its_own(last: int) -> None:
    """A variable of its own needs no guess; 5.10's is the end, not the last word."""
    layout = replace(stack_layout(image.image()[0]), hardirq_stack_ptr=(0x118,))
    simulated = guest.SimulatedGuest()
    simulated.word(guest.GS_BASE + 0x118, guest.IRQ_STACK + 0x4000 - last)
    cpu = cpu_stacks(layout, guest.GS_BASE, simulated.bytes_at)
    irq = next(info for info in cpu.fixed if info.type == IRQ)
    assert (irq.begin, irq.end) == (guest.IRQ_STACK, guest.IRQ_STACK + 0x4000)


def test_current_task_follows_the_guest() -> None:
    """Another current task has another stack: what was seen last is only a guess."""
    layout = stack_layout(image.image()[0])
    simulated = guest.SimulatedGuest()
    cpu = cpu_stacks(layout, guest.GS_BASE, simulated.bytes_at)
    for _ in range(2):
        stacks, _ = cpu.current(simulated.read_many, guest.SP, 64)
        assert stacks.find(guest.SP) is not None
    simulated.word(guest.TASK + image.TASK_STACK, guest.STACK + 0x10000)
    stacks, _ = cpu.current(simulated.read_many, guest.SP, 64)
    assert stacks.find(guest.SP) is None


def test_switched_task_is_read_again() -> None:
    """After a switch the new task's stack counts, not the last one's."""
    layout = stack_layout(image.image()[0])
    simulated = guest.SimulatedGuest()
    cpu = cpu_stacks(layout, guest.GS_BASE, simulated.bytes_at)
    cpu.current(simulated.read_many, guest.SP, 64)
    other = guest.TASK + 0x1000
    simulated.load(other, bytes(0x100))
    simulated.word(other + image.TASK_STACK, guest.STACK + 0x10000)
    simulated.word(guest.GS_BASE + image.PER_CPU["pcpu_hot"], other)
    stacks, _ = cpu.current(simulated.read_many, guest.SP, 64)
    assert stacks.all[0].begin == guest.STACK + 0x10000


def test_window_comes_with_the_stacks() -> None:
    """From the second stop on the stack is read in the same round trip."""
    layout = stack_layout(image.image()[0])
    simulated = guest.SimulatedGuest()
    cpu = cpu_stacks(layout, guest.GS_BASE, simulated.bytes_at)
    assert cpu.current(simulated.read_many, guest.SP, 64)[1] == b""
    _, window = cpu.current(simulated.read_many, guest.SP, 64)
    assert window == simulated.bytes_at(guest.SP, 64)
    top = guest.STACK + 0x4000
    assert len(cpu.current(simulated.read_many, top - 16, 64)[1]) == 16


def test_per_cpu_base_is_the_kernels_gs() -> None:
    """Before swapgs it is on the other side; five-level paging reaches lower."""
    user = replace(guest.ZERO, gs_base=0x7F00, k_gs_base=guest.GS_BASE)
    assert per_cpu_base(user) == guest.GS_BASE
    assert per_cpu_base(guest.KERNEL) == guest.GS_BASE
    low = replace(guest.ZERO, gs_base=0xFF11000000000000)
    assert per_cpu_base(low) == 0xFF11000000000000
    assert per_cpu_base(guest.ZERO) is None
