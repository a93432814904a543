"""Taken: a kernel's memory as it was read, and once more with one byte wrong in it.

The second reading is the control: a byte of text that nobody predicts must be seen, or
the readback proves nothing. It is changed in the memory itself, so that the whole way
from there is shown to work, and put back.
"""

from __future__ import annotations

import random

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from harness.boot.readback.memory import Memory, read_image
from harness.elf.program import Program, Section

WRONG_BY = 0xFF  # every bit of the byte


class Taken(Struct, frozen=True):
    """What was read of a stopped kernel.

    Attributes:
        linked: the kernel as it was linked.
        image: as it is in memory.
        changed: address of the byte that was made wrong.
        control: the section that it is in, as it was read then.
        mended: the byte was as before, afterwards.
    """

    linked: Program
    image: Program
    changed: int
    control: Section
    mended: bool

    @property
    def code(self) -> Program:
        """The sections of code that were read, and no others."""
        return replace(self.image, sections=self.image.executable)

    @property
    def controlled(self) -> Program:
        """The section that was read with a wrong byte in it, and no others."""
        return replace(self.image, sections=(self.control,))


def take(program: Program, memory: Memory, *, init: bool, seed: int = 0) -> Taken:
    """Read the kernel that runs ``program``; its memory is left as it was.

    ``init`` says that its init memory is there yet.

    Raises:
        InfraError: the memory cannot be read or written.
        FormatError: ``program`` does not say where its image lies.
    """
    image = read_image(program, memory, init=init)
    section = max(image.executable, key=lambda section: section.size)
    changed = section.address + random.Random(seed).randrange(section.size)
    before = image.read(changed, 1).tobytes()
    memory.write(changed, bytes([before[0] ^ WRONG_BY]))
    try:
        again = memory.read(section.address, section.size)
    finally:
        memory.write(changed, before)
    control = replace(section, data=np.frombuffer(again, np.uint8))
    mended = memory.read(changed, 1) == before
    return Taken(program, image, changed, control, mended)
