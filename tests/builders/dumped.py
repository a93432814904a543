"""Dumped: the simulated guest's memory as a dump, with tasks that its lists lead to."""

from __future__ import annotations

from pathlib import Path

from harness.boot.readback.dump import DumpMemory
from harness.boot.sleepers import STACK_END_MAGIC
from harness.elf.core import parse_core
from harness.elf.file import map_file
from harness.elf.program import Program
from tests.builders import image
from tests.builders.corefile import corefile
from tests.builders.guest import (
    GS_BASE,
    SLEEPER,
    SLEEPER_STACK,
    STACK,
    TASK,
    ZOMBIE,
    SimulatedGuest,
)

INIT_TASK = image.DATA + image.THREAD_SIZE
PER_CPU_OFFSET = 0xC00
# __switch_to_asm, whose last push is at +8
TABLE = [*image.TABLE, (0xB00, image.call(8)), (0xB08, image.call(32))]
MORE = {"__per_cpu_offset": PER_CPU_OFFSET, "init_top_pgt": 0xD00}


def linked() -> Program:
    """The kernel that is in the dump."""
    program, _ = image.image(table=TABLE, more=MORE)
    return program


def chain(guest: SimulatedGuest, offset: int, *tasks: int) -> None:
    """Make the list of init_task at ``offset`` lead from one of ``tasks`` to the next."""
    nodes = [task + offset for task in (INIT_TASK, *tasks)]
    for node, following in zip(nodes, [*nodes[1:], nodes[0]], strict=True):
        guest.word(node, following)
        guest.word(following + 8, node)


def dumped() -> SimulatedGuest:
    """A guest whose task runs; another sleeps, init_task, too, and one has ended."""
    guest = SimulatedGuest()
    guest.word(image.TEXT + PER_CPU_OFFSET, GS_BASE)
    chain(guest, image.TASKS, TASK, SLEEPER, ZOMBIE)
    for stack in (STACK, SLEEPER_STACK, image.DATA):
        guest.word(stack, STACK_END_MAGIC)
    sp = image.DATA + 0x3000
    guest.word(INIT_TASK + image.THREAD_SP, sp)
    for offset, word in ((0, 0x402), (8, 0x508), (32, 0x605)):
        guest.word(sp + image.SAVED + offset, image.TEXT + word)
    return guest


def write_core(guest: SimulatedGuest, path: Path) -> None:
    """Write all that ``guest`` has in memory, at its own addresses."""
    segments: list[tuple[int, int, bytes]] = []
    begin, data = 0, bytearray()
    for address in sorted(guest.memory):
        if address != begin + len(data):
            segments.append((begin, 0, bytes(data)))
            begin, data = address, bytearray()
        data.append(guest.memory[address])
    segments.append((begin, 0, bytes(data)))
    path.write_bytes(corefile([each for each in segments if each[2]]))


def memory_of(path: Path, program: Program) -> DumpMemory:
    """The kernel in the dump at ``path``."""
    return DumpMemory(parse_core(map_file(path), path.name), program)
