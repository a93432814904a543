"""Image: a vmlinux made in memory, with all that a probe reads of one.

Two functions: ``leaf`` (a frame of 8 bytes) called by ``caller`` (24 bytes), an entry
point, an idle loop, and one alternative site inside ``leaf``.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from types import MappingProxyType

from harness.elf.orc import OrcEntry, OrcTable, parse_orc
from harness.elf.program import Program
from tests.builders.elfwriter import (
    ALLOC,
    END,
    ET_EXEC,
    EXEC,
    NOTYPE,
    OBJECT,
    UND,
    ElfWriter,
    add_orc,
    call,
    regs,
)

TEXT = 0xFFFFFFFF81000000
TEXT_SIZE = 0x2000
RODATA = TEXT + 0x10000
DATA = TEXT + 0x20000
INIT_TEXT = TEXT + 0x40000
ORC = TEXT + 0x50000
ALT = TEXT + 0x60000
BANNER = b"Linux version 6.12.0-test (x@y)\0"
ESTACKS = [(0, 0, 0), (0x1000, 0x2000, 5), (0x1000, 0x2000, 5), (0, 0, 0),
           (0x4000, 0x2000, 6), (0x4000, 0x2000, 6)]  # fmt: skip
TASK_STACK = 0x20  # offset of ``stack`` in init_task
CHILDREN, TASKS = 0x60, 0x80  # of lists, which are empty
PER_CPU = {"pcpu_hot": 0x100, "cea_exception_stacks": 0x200, "cpu_tss_rw": 0x1000}
TSS_SIZE, IRQ_SIZE, THREAD_SIZE = 0x5000, 0x4000, 0x4000

# name -> (offset in .text, size, kind)
FUNCTIONS = {
    "startup_64": (0x0, 0x40, NOTYPE),
    "asm_exc_page_fault": (0x100, 0x20, NOTYPE),
    "stack_trace_save_regs": (0x200, 0x40, 2),
    "leaf": (0x400, 0x40, 2),
    "caller": (0x500, 0x40, 2),
    "ret_from_fork_asm": (0x600, 0x10, NOTYPE),
    "idle": (0x700, 0x20, 2),
    "tail": (0x800, 0x10, 2),
    "open": (0x900, 0x10, 2),
    "do_syscall_64": (0xA00, 0x10, 2),
    "__switch_to_asm": (0xB00, 0x20, NOTYPE),
    "find_ge_pid": (0xC00, 0x10, 2),
    "pid_task": (0xC10, 0x10, 2),
    "pid_nr_ns": (0xC20, 0x10, 2),
    "stack_trace_save_tsk_reliable": (0xC30, 0x10, 2),
}
# endbr64; push %rbp, %rbx, %r12; mov %rsp,0x40(%rdi) as it is encoded there
SWITCH = b"\xf3\x0f\x1e\xfa\x55\x53\x41\x54\x48\x89\xa7\x40\0\0\0"
THREAD_SP, SAVED = 0x40, 24
CALLS = {0x503: 0x400, 0x600: 0x500, 0x710: 0x400}  # place -> target
SITE, SITE_LENGTH = 0x410, 6  # ``call *disp(%rip)``, replaced by ``pushf; pop %rax``
TABLE: list[tuple[int, OrcEntry]] = [
    (0x0, END),
    (0x100, regs(8, partial=True)),
    (0x120, UND),
    (0x200, call(8)),
    (0x400, call(8)),
    (0x411, call(16)),
    (0x412, call(8)),
    (0x500, call(24)),
    (0x600, END),
    (0x610, UND),
    (0x700, call(8)),
    (0x720, UND),
    (0x800, call(8)),
    (0x810, UND),
    (0x900, call(8)),
    (0x910, UND),
    (0xA00, call(8)),
    (0xA10, UND),
]


def image(
    symbols: Mapping[str, int] | None = None,
    table: list[tuple[int, OrcEntry]] = TABLE,
    more: Mapping[str, int] = MappingProxyType({}),
) -> tuple[Program, OrcTable]:
    """Return the image and its table; ``symbols`` replace all, ``more`` are added."""
    writer = ElfWriter(ET_EXEC)
    text = writer.section(".text", code(), flags=ALLOC | EXEC, address=TEXT, align=4096)
    _data(writer)
    init = bytes(0x100)
    writer.section(".init.text", init, flags=ALLOC | EXEC, address=INIT_TEXT)
    writer.section(".data..percpu", bytes(0x10000), address=0)
    percpu = len(writer.sections) - 1
    if symbols is None:
        _symbols(writer, text, percpu)
    else:
        for name, offset in symbols.items():
            writer.symbol(name, text, TEXT + offset)
    for name, offset in more.items():
        writer.symbol(name, text, TEXT + offset)
    _alternatives(writer)
    add_orc(writer, text, table, address=ORC)
    program = writer.program("vmlinux")
    orc = parse_orc(program)
    assert orc is not None
    return program, orc


def code() -> bytes:
    """Return .text as linked: NOPs, a hlt in ``idle`` and the original of the site."""
    data = bytearray(b"\x90" * TEXT_SIZE)
    for place, target in CALLS.items():
        data[place : place + 5] = b"\xe8" + struct.pack("<i", target - place - 5)
    data[0x702] = 0xF4
    data[0x800:0x805] = b"\xe9" + struct.pack("<i", 0x400 - 0x805)  # jmp leaf
    data[0x900:0x902] = b"\xff\xe0"  # jmp *%rax
    data[0xB00 : 0xB00 + len(SWITCH)] = SWITCH
    data[SITE : SITE + SITE_LENGTH] = b"\xff\x15" + struct.pack("<i", 0x1000)
    return bytes(data)


def patched_code() -> bytes:
    """Return .text as the kernel patches it: ``pushf; pop %rax`` and one NOP."""
    data = bytearray(code())
    data[SITE : SITE + SITE_LENGTH] = b"\x9c\x58\x0f\x1f\x40\x00"
    return bytes(data)


def _data(writer: ElfWriter) -> None:
    pages = b"".join(struct.pack("<IHH", *page) for page in ESTACKS)
    rodata = BANNER.ljust(0x100, b"\0") + pages
    writer.section(".rodata", rodata, address=RODATA)
    task = bytearray(0x100)
    task[TASK_STACK : TASK_STACK + 8] = struct.pack("<Q", DATA)
    for offset in (CHILDREN, TASKS):
        here = DATA + THREAD_SIZE + offset
        task[offset : offset + 16] = struct.pack("<QQ", here, here)
    data = bytes(THREAD_SIZE) + task + struct.pack("<Q", 0)
    writer.section(".data", data, address=DATA)


def _symbols(writer: ElfWriter, text: int, percpu: int) -> None:
    for name, (offset, size, kind) in FUNCTIONS.items():
        writer.symbol(name, text, TEXT + offset, size, kind)
    for name, address in {
        "_stext": TEXT,
        "_etext": TEXT + TEXT_SIZE,
        "_sinittext": INIT_TEXT,
        "_einittext": INIT_TEXT + 0x100,
    }.items():
        writer.symbol(name, text, address, 0, NOTYPE)
    rodata, data = text + 1, text + 2
    size = len(ESTACKS) * 8
    writer.symbol("linux_banner", rodata, RODATA, len(BANNER), OBJECT)
    writer.symbol("estack_pages", rodata, RODATA + 0x100, size, OBJECT)
    writer.symbol("init_stack", data, DATA, 0, OBJECT)
    writer.symbol("__end_init_stack", data, DATA + THREAD_SIZE, 0, NOTYPE)
    writer.symbol("init_task", data, DATA + THREAD_SIZE, 0x100, OBJECT)
    writer.symbol("init_pid_ns", data, DATA + THREAD_SIZE + 0x104, 4, OBJECT)
    writer.symbol("system_state", data, DATA + THREAD_SIZE + 0x100, 4, OBJECT)
    for name, offset in PER_CPU.items():
        writer.symbol(name, percpu, offset, TSS_SIZE, OBJECT)
    writer.symbol("irq_stack_backing_store", percpu, 0x8000, IRQ_SIZE, OBJECT)


def _alternatives(writer: ElfWriter) -> None:
    replacement = ALT + 0x100
    entry = struct.pack(
        "<iiHHBB", TEXT + SITE - ALT, replacement - (ALT + 4), 0x110, 1, SITE_LENGTH, 2
    )
    writer.section(".altinstructions", entry, address=ALT, entsize=14)
    writer.section(
        ".altinstr_replacement", b"\x9c\x58", flags=ALLOC | EXEC, address=replacement
    )
