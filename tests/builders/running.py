"""Running: a small kernel as it was linked, and what a machine that runs it says."""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from msgspec.structs import replace

from harness.elf.alternative import MAX_WORDS
from harness.elf.feature import Features
from harness.elf.program import Program
from harness.text.patch.edits import Edits, written
from harness.text.patch.said import Said
from tests.builders.elfwriter import (
    ALLOC,
    ET_EXEC,
    EXEC,
    NOTYPE,
    OBJECT,
    Alternative,
    ElfWriter,
)

TEXT = 0xFFFFFFFF81000000
INIT, EXIT, CODE = TEXT + 0x10000, TEXT + 0x18000, TEXT + 0x1C000
AUX = TEXT + 0x1E000
TABLES, DATA = TEXT + 0x20000, TEXT + 0x40000
ROOM = 0x1000  # bytes of .text


@dataclass
class Kernel:
    """A kernel to be: fill it, then take ``linked`` and ``said``.

    Attributes:
        text: offset in .text -> code; int3 elsewhere.
        init: what .init.text has.
        exits: what .exit.text has.
        aux: what .altinstr_aux has.
        functions: name -> offset in .text, or address.
        tables: section -> addresses that its s32 entries name.
        records: section -> (address, struct format) -> what is there; see ``pairs``.
        variables: name -> (as linked, as the machine has it), eight bytes each.
        replacements: what .altinstr_replacement has.
        alternatives: (site's offset, replacement's offset, row).
        paravirt: (address, type, length) of each paravirt call.
        entsize: what .altinstructions tells of its entries.
        names: the features' numbers by name.
    """

    text: dict[int, bytes] = field(default_factory=dict)
    init: bytes = b""
    exits: bytes = b""
    aux: bytes = b""
    functions: dict[str, int] = field(default_factory=dict)
    tables: dict[str, Sequence[int]] = field(default_factory=dict)
    pairs: dict[str, Sequence[tuple[int, int]]] = field(default_factory=dict)
    labels: Sequence[tuple[int, int, int]] = ()
    variables: dict[str, tuple[int, int]] = field(default_factory=dict)
    rodata: dict[str, bytes] = field(default_factory=dict)
    replacements: bytes = b""
    alternatives: Sequence[tuple[int, int, Alternative]] = ()
    paravirt: Sequence[tuple[int, int, int]] = ()
    entsize: int = 0
    names: dict[str, int] = field(default_factory=dict)

    def address(self, name: str) -> int:
        """Where variable ``name`` is."""
        return DATA + 16 * list(self.variables).index(name)

    def linked(self) -> Program:
        """The vmlinux."""
        return self._program(0)

    def said(self, features: Collection[int] = ()) -> Said:
        """What a machine with ``features`` says."""
        bits = np.zeros(32 * MAX_WORDS, bool)
        bits[list(features)] = True
        names = Features({n: name for name, n in self.names.items()}, 22, "test")
        return Said(self._program(1), bits, names)

    def _program(self, which: int) -> Program:
        writer = ElfWriter(ET_EXEC)
        code = bytearray(b"\xcc" * ROOM)
        for at, one in self.text.items():
            code[at : at + len(one)] = one
        text = writer.section(".text", bytes(code), flags=ALLOC | EXEC, address=TEXT)
        for name, data, at in (
            (".init.text", self.init, INIT),
            (".exit.text", self.exits, EXIT),
            (".altinstr_aux", self.aux, AUX),
            (".altinstr_replacement", self.replacements, CODE),
        ):
            if data:
                writer.section(name, data, flags=ALLOC | EXEC, address=at)
        bounds = {
            "_text": TEXT,
            "_stext": TEXT,
            "_etext": TEXT + ROOM,
            "_sinittext": INIT,
            "_einittext": INIT + len(self.init),
            "__bss_stop": DATA + 0x10000,
            "__init_begin": INIT,
            "__init_end": DATA,
        }
        for name, at in bounds.items():
            writer.symbol(name, text, at, 0, NOTYPE)
        for name, at in self.functions.items():
            writer.symbol(name, text, at if at >= TEXT else TEXT + at, 0x10)
        self._tables(writer)
        values = [pair[which] for pair in self.variables.values()]
        data = b"".join(struct.pack("<QQ", value, 0) for value in values)
        section = writer.section(".data", data.ljust(16, b"\0"), address=DATA)
        for name in self.variables:
            writer.symbol(name, section, self.address(name), 8, OBJECT)
        return writer.program("vmlinux")

    def _tables(self, writer: ElfWriter) -> None:
        at = TABLES
        for name, places in self.tables.items():
            data = b"".join(
                struct.pack("<i", place - (at + 4 * row))
                for row, place in enumerate(places)
            )
            writer.section(name, data, address=at)
            at += 0x1000
        for name, pairs in self.pairs.items():
            data = b"".join(
                struct.pack("<ii", place - (at + 8 * row), other - (at + 8 * row + 4))
                for row, (place, other) in enumerate(pairs)
            )
            writer.section(name, data, address=at)
            at += 0x1000
        if self.labels:
            data = b"".join(
                struct.pack(
                    "<iiq",
                    place - (at + 16 * row),
                    target - (at + 16 * row + 4),
                    key - (at + 16 * row + 8),
                )
                for row, (place, target, key) in enumerate(self.labels)
            )
            writer.section("__jump_table", data, address=at)
            at += 0x1000
        if self.alternatives:
            data = b""
            for site, replacement, row in self.alternatives:
                here = at + len(data)
                fields = (TEXT + site - here, CODE + replacement - (here + 4))
                data += struct.pack("<ii", *fields) + row.pack(14)[8:]
            writer.section(".altinstructions", data, address=at, entsize=self.entsize)
            at += 0x1000
        if self.paravirt:
            rows = [struct.pack("<QBB6x", *row) for row in self.paravirt]
            writer.section(".parainstructions", b"".join(rows), address=at)
            at += 0x1000
        for name, one in self.rodata.items():
            section = writer.section(f".rodata.{name}", one, address=at)
            writer.symbol(name, section, at, len(one), OBJECT)
            at += 0x1000


def near(opcode: bytes, at: int, target: int) -> bytes:
    """A branch with a 32-bit operand at ``at``."""
    return opcode + struct.pack("<i", target - at - len(opcode) - 4)


def code_of(kernel: Kernel, edits: Edits | None, at: int, size: int) -> bytes:
    """What ``kernel`` has at ``at`` after ``edits``."""
    assert edits is not None
    return written(kernel.linked(), edits).read(at, size).tobytes()


def moved(said: Said, variables: Mapping[int, int]) -> Said:
    """``said`` with other values at some addresses."""
    sections = []
    for section in said.image.sections:
        data = section.data.copy()
        for at, value in variables.items():
            if section.address <= at < section.end:
                place = at - section.address
                data[place : place + 8] = np.frombuffer(struct.pack("<Q", value), "u1")
        sections.append(replace(section, data=data))
    return replace(said, image=replace(said.image, sections=tuple(sections)))
