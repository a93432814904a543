"""Said: what a running machine tells that its kernel's image does not.

A kernel patches by what it finds: the CPU's features, its own variables (pointers of
pv_ops, keys of static calls and jump labels, the return thunk). All of that lies in
its memory, so that is what this is: the image with its sections as they are in memory,
and the features among them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from harness.elf.alternative import MAX_WORDS
from harness.elf.feature import Features
from harness.elf.program import Program
from harness.text.insn import U8, U64
from harness.text.patch.choice import XENPV, Machine
from harness.text.patch.kind import NopTable
from harness.text.patch.nops import NOPS
from harness.text.patch.streams import gather
from harness.variant import Platform

Bools = npt.NDArray[np.bool_]

IDEAL_NOPS = "ideal_nops"  # a pointer to the table that is used, up to 5.12
_ATOMIC5 = 9  # NOP_ATOMIC5 of asm/nops.h

# What no image names (they are not in /proc/cpuinfo), as numbered since 5.19 and in
# what was backported from it (asm/cpufeatures.h).
_NUMBERS = {
    "RETPOLINE": 11 * 32 + 12,
    "RETPOLINE_LFENCE": 11 * 32 + 13,
    "RETHUNK": 11 * 32 + 14,
    "CALL_DEPTH": 11 * 32 + 19,
}


class Said(Struct, frozen=True):
    """What one machine says.

    Attributes:
        image: the kernel, its sections as they are in memory.
        features: bool[2048], of each number whether the machine has it.
        names: what the numbers are called.
    """

    image: Program
    features: Bools
    names: Features

    @property
    def machine(self) -> Machine:
        """What decides between the texts of alternatives."""
        platform = Platform.XEN if self.features[XENPV] else Platform.NATIVE
        return Machine(platform, features=dict(enumerate(self.features.tolist())))

    def has(self, name: str) -> bool:
        """Whether the machine has the feature called ``name``, if the kernel has."""
        number = self.names.number(name)
        if number is None:
            number = _NUMBERS.get(name)
        return number is not None and bool(self.features[number])

    def address(self, name: str) -> int:
        """Return the address of symbol ``name``, 0 if there is none."""
        return self.image.symbols.find(name) or 0

    def variable(self, name: str, size: int) -> int | None:
        """Return what the variable ``name`` of ``size`` bytes holds; None without it."""
        at = self.address(name)
        if not at:
            return None
        return int.from_bytes(self.image.read(at, size).tobytes(), "little")

    @property
    def nops(self) -> NopTable:
        """Which NOPs the machine's kernel writes: up to 5.12 its CPU decides."""
        table = self.variable(IDEAL_NOPS, 8)
        other = table is not None and table == self.address("k8_nops")
        return NopTable.K8 if other else NopTable.P6

    @property
    def nop5(self) -> bytes:
        """The NOP of five bytes that can be written in one go (NOP_ATOMIC5)."""
        table = self.variable(IDEAL_NOPS, 8)
        if table is None:
            return NOPS[5]
        pointer = self.words(np.array([table + 8 * _ATOMIC5], np.uint64))
        return bytes_at(self.image, pointer, 5).tobytes()

    def words(self, address: U64, size: int = 8) -> U64:
        """Return u64[n], what variables of ``size`` bytes hold; 0 outside memory."""
        return words(self.image, address, size)


def words(program: Program, address: U64, size: int = 8) -> U64:
    """Return u64[n], what ``program`` has in variables of ``size`` bytes."""
    cells = bytes_at(program, address, size)
    wide = np.zeros((len(address), 8), np.uint8)
    wide[:, :size] = cells
    return wide.view("<u8").reshape(-1).astype(np.uint64)


def bytes_at(program: Program, address: U64, size: int) -> U8:
    """Return u8[n, size], what is at each address; zeros outside the sections."""
    cells = np.zeros((len(address), size), np.uint8)
    place = program.sections_at(address)
    for number in np.unique(place[place >= 0]).tolist():
        section = program.sections[number]
        if not section.data.size:
            continue
        rows = np.flatnonzero(place == number)
        offset = (address[rows] - np.uint64(section.address)).astype(np.int64)
        fits = offset + size <= len(section.data)
        rows, offset = rows[fits], offset[fits]
        cells[rows] = section.data[offset[:, None] + np.arange(size)]
    return cells


def code_at(program: Program, address: U64, size: int) -> U8:
    """Return u8[n, size], the code at each address, NOPs behind its section's end."""
    room = np.full(len(address), size, np.int64)
    for section in program.executable:
        end = np.uint64(section.end)
        rows = np.flatnonzero((address >= np.uint64(section.address)) & (address < end))
        left = (end - address[rows]).astype(np.int64)
        room[rows] = np.minimum(left, size)
    return gather(program, address, room, size)[0]


def said_by(image: Program, capability: int, names: Features) -> Said:
    """Return what ``image``, a kernel's memory, says.

    ``capability`` is the address of its boot_cpu_data.x86_capability, see
    :func:`harness.text.patch.capability.find_capability`; ``names`` are those of its
    features.
    """
    section = image.section_at(capability)
    room = 0 if section is None else min(4 * MAX_WORDS, section.end - capability)
    bits = np.unpackbits(image.read(capability, room), bitorder="little")
    features = np.zeros(32 * MAX_WORDS, bool)
    features[: len(bits)] = bits
    return Said(image, features, names)
