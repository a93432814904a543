"""Stack info: which stacks a guest's own get_stack_info() knows at this moment.

The unwinder refuses to read what is not on one of them, so a host that wants the same
trace needs the same list: the current task's stack, the CPU's exception stacks, its
hard-irq stack and its entry stack (arch/x86/kernel/dumpstack_64.c, v6.12). Where each
lies is read from the guest's per-CPU data; the layout of those structures is found in
the image itself (symbols, ``estack_pages[]``, the initial ``init_task``), because a
kernel without debug information tells it nowhere else.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import numpy as np
from msgspec import Struct, field

from harness.boot.registers import Registers
from harness.boot.unwind import StackInfo
from harness.elf.program import Program
from harness.errors import FormatError

PAGE_SIZE = 4096
KERNEL_HALF = 1 << 63  # with five-level paging kernel memory begins at 0xff00...
TASK, IRQ, ENTRY = 1, 2, 4  # enum stack_type; exception stacks follow
_WORD = 0xFFFF_FFFF_FFFF_FFFF
_TSS_IST_DF = 0x24  # struct x86_hw_tss: u32, sp0, sp1, sp2, u64, ist[7]; packed
# struct pcpu_hot starts with current_task; hardirq_stack_ptr is at 0x18, or at 0x20
# with call depth tracking. It alone of these words ends in 0xff8 (the last word's address).
_PCPU_HOT_HARDIRQ = (0x18, 0x20)

Read = Callable[[int, int], bytes]
ReadMany = Callable[[Sequence[tuple[int, int]]], list[bytes]]


class StackLayout(Struct, frozen=True):
    """Where a kernel image keeps what get_stack_info() reads.

    Per-CPU variables are given as what ``%gs`` is added to.

    Attributes:
        current_task: per-CPU pointer to the running task.
        hardirq_stack_ptr: per-CPU candidates for the pointer to the irq stack's last
            word: the one whose value looks like it.
        cea_exception_stacks: per-CPU pointer to the exception stacks.
        cpu_tss: the per-CPU TSS.
        tss_size: size of struct tss_struct, whole pages.
        task_stack: offset of ``stack`` in struct task_struct.
        thread_size: size of a task's stack.
        irq_stack_size: size of the irq stack.
        estacks: (offset, size, type) of each exception stack in the area.
        estacks_size: size of that area.
    """

    current_task: int
    hardirq_stack_ptr: tuple[int, ...]
    cea_exception_stacks: int
    cpu_tss: int
    tss_size: int
    task_stack: int
    thread_size: int
    irq_stack_size: int
    estacks: tuple[tuple[int, int, int], ...]
    estacks_size: int


class GuestStacks(Struct, frozen=True):
    """All stacks that get_stack_info() knows at one stop, in its order."""

    all: tuple[StackInfo, ...]

    def find(self, address: int) -> StackInfo | None:
        """Return the stack that ``address`` is on, or None."""
        for info in self.all:
            if info.begin <= address < info.end:
                return info
        return None


class LastTask(Struct):
    """The task that was current at the last stop: a guess that saves a round trip."""

    task: int = 0
    stacks: GuestStacks = field(default_factory=lambda: GuestStacks(()))


class CpuStacks(Struct, frozen=True):
    """The stacks of one CPU, and how to find its current task's.

    Attributes:
        gs_base: the CPU's per-CPU base.
        fixed: all but the current task's.
        double_fault_top: top of the double-fault stack.
        last: what :meth:`current` saw last; it is never trusted.
    """

    layout: StackLayout
    gs_base: int
    fixed: tuple[StackInfo, ...]
    double_fault_top: int
    last: LastTask = field(default_factory=LastTask)

    def task(self, read: Read) -> int:
        """Return the address of the task that runs."""
        return _u64(read(self.gs_base + self.layout.current_task & _WORD, 8))

    def current(
        self, read_many: ReadMany, address: int, limit: int
    ) -> tuple[GuestStacks, bytes]:
        """Read the stacks of this stop, and at once what lies from ``address`` up.

        That is at most ``limit`` bytes, to the end of the stack; none if that was
        not the stack of the last stop, either.
        """
        last, layout = self.last, self.layout
        info = last.stacks.find(address)
        wanted = [(self.gs_base + layout.current_task & _WORD, 8)]
        if info is not None:
            wanted.append((last.task + layout.task_stack & _WORD, 8))
            wanted.append((address, min(limit, info.end - address)))
        found = read_many(wanted)
        task = _u64(found[0])
        if info is None or task != last.task:
            found[1:] = read_many([(task + layout.task_stack & _WORD, 8)])
        stack = _u64(found[1])
        mine = StackInfo(TASK, stack, stack + layout.thread_size, "task")
        last.task, last.stacks = task, GuestStacks((mine, *self.fixed))
        return last.stacks, found[2] if len(found) > 2 else b""


def stack_layout(program: Program) -> StackLayout:
    """Find the layout in a vmlinux.

    Raises:
        FormatError: it lacks a symbol that tells it.
    """
    hot = program.symbols.find("pcpu_hot")  # v6.2 to v6.14; separate variables else
    if hot is None:
        current = _symbol(program, "current_task")
        hardirq: tuple[int, ...] = (_symbol(program, "hardirq_stack_ptr"),)
    else:
        current, hardirq = hot, tuple(hot + offset for offset in _PCPU_HOT_HARDIRQ)
    estacks, pages = _estacks(program)
    return StackLayout(
        current_task=current,
        hardirq_stack_ptr=hardirq,
        cea_exception_stacks=_symbol(program, "cea_exception_stacks"),
        cpu_tss=_symbol(program, "cpu_tss_rw"),
        tss_size=_size(program, "cpu_tss_rw"),
        task_stack=_task_stack_offset(program),
        thread_size=_thread_size(program),
        irq_stack_size=_size(program, "irq_stack_backing_store"),
        estacks=estacks,
        estacks_size=pages * PAGE_SIZE,
    )


def per_cpu_base(registers: Registers) -> int | None:
    """Return this CPU's per-CPU base: the kernel's GS, whichever side it is on."""
    for base in (registers.gs_base, registers.k_gs_base):
        if base >= KERNEL_HALF:
            return base
    return None


def cpu_stacks(layout: StackLayout, gs_base: int, read: Read) -> CpuStacks:
    """Read what stays the same on one CPU: all stacks but the current task's."""

    def per_cpu(offset: int) -> int:
        return _u64(read(gs_base + offset & _WORD, 8))

    area = per_cpu(layout.cea_exception_stacks)
    stacks = [
        StackInfo(kind, area + offset, area + offset + size, f"exception {kind}")
        for offset, size, kind in layout.estacks
        if area
    ]
    sure = len(layout.hardirq_stack_ptr) == 1
    for place in layout.hardirq_stack_ptr:
        pointer = per_cpu(place)
        if pointer >= KERNEL_HALF and (sure or pointer & 0xFFF == 0xFF8):
            end = pointer + 8 & -16  # it is at the last word; up to 5.11 behind it
            stacks.append(StackInfo(IRQ, end - layout.irq_stack_size, end, "irq"))
            break
    if area:
        # struct cpu_entry_area: gdt, entry_stack_page, tss, estacks.
        entry = area - layout.tss_size - PAGE_SIZE
        stacks.append(StackInfo(ENTRY, entry, entry + PAGE_SIZE, "entry"))
    top = _u64(read(gs_base + layout.cpu_tss + _TSS_IST_DF & _WORD, 8))
    return CpuStacks(layout, gs_base, tuple(stacks), top)


def _estacks(program: Program) -> tuple[tuple[tuple[int, int, int], ...], int]:
    # struct estack_pages {u32 offs; u16 size; u16 type;}, one for each page of the
    # area; guard pages are zero.
    size = _size(program, "estack_pages")
    data = program.read(_symbol(program, "estack_pages"), size).tobytes()
    pages = list(struct.iter_unpack("<IHH", data))
    found = dict.fromkeys(page for page in pages if page[1])
    return tuple((offset, size, kind) for offset, size, kind in found), len(pages)


def _task_stack_offset(program: Program) -> int:
    # init_task is built in: its first pointer to init_stack is ``stack``.
    init_task = _symbol(program, "init_task")
    wanted = _symbol(program, "init_stack") - program.slide  # as it was linked
    size = _size(program, "init_task")
    data = program.read(init_task, size & -8)
    words: list[int] = np.frombuffer(data.tobytes(), "<u8").tolist()
    if wanted not in words:
        raise FormatError(f"{program.name}: init_task does not point to init_stack")
    return 8 * words.index(wanted)


def _thread_size(program: Program) -> int:
    for name in ("__end_init_stack", "__end_init_task"):
        if (end := program.symbols.find(name)) is not None:
            return end - _symbol(program, "init_stack")
    raise FormatError(f"{program.name} does not tell the size of a task's stack")


def _symbol(program: Program, name: str) -> int:
    if (address := program.symbols.find(name)) is None:
        raise FormatError(
            f"{program.name} has no symbol {name}",
            hint="the probe needs a vmlinux with its symbols (CONFIG_KALLSYMS_ALL)",
        )
    return address


def _size(program: Program, name: str) -> int:
    index = program.symbols.find_index(name)
    size = 0 if index is None else int(program.symbols.size[index])
    if not size:
        raise FormatError(f"{program.name} does not tell the size of {name}")
    return size


def _u64(data: bytes) -> int:
    return int.from_bytes(data, "little")
