"""Relocs: what KASLR changes in a kernel, and a kernel at another address.

Behind the ELF file in a bzImage there are three tables of addresses, each with a zero
before it, which the decompressor takes from the end: 32-bit values that grow by the
slide, such that shrink by it (counted from per-CPU addresses), and 64-bit ones.

Source: handle_relocations() of arch/x86/boot/compressed/misc.c, and
arch/x86/tools/relocs.c.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

from harness.elf.file import Bytes
from harness.elf.program import KERNEL_MAP, Program, Section
from harness.errors import FormatError

_U64 = npt.NDArray[np.uint64]


class Relocs(Struct, frozen=True):
    """The places that change.

    Attributes:
        words: u64[n], of 32-bit values that grow by the slide.
        inverse: u64[n], of 32-bit values that shrink by it.
        quads: u64[n], of 64-bit values that grow.
    """

    words: _U64
    inverse: _U64
    quads: _U64


def parse_relocs(vmlinux: Bytes, name: str) -> Relocs:
    """Read the tables behind the unpacked payload ``vmlinux`` of a bzImage.

    Raises:
        FormatError: there are none.
    """
    cells = vmlinux[len(vmlinux) % 4 :].view("<i4")
    zeros = np.flatnonzero(cells == 0)
    if len(zeros) < 3 or zeros[-1] == len(cells) - 1:
        raise FormatError(
            f"{name} has no relocations behind its kernel",
            hint="a kernel without CONFIG_RELOCATABLE cannot be moved",
        )
    last, middle, first = zeros[-1], zeros[-2], zeros[-3]
    tables = (cells[last + 1 :], cells[middle + 1 : last], cells[first + 1 : middle])
    words, inverse, quads = (t.astype(np.int64).view(np.uint64) for t in tables)
    if not (words >= KERNEL_MAP).all() or not (quads >= KERNEL_MAP).all():
        raise FormatError(f"{name}: its relocations are no kernel addresses")
    return Relocs(words, inverse, quads)


def slid(program: Program, relocs: Relocs, slide: int) -> Program:
    """Return the linked kernel ``program`` as the decompressor puts it ``slide`` on."""
    sections = tuple(_relocated(one, relocs, slide) for one in program.sections)
    contents = replace(program, sections=sections)
    return replace(contents.slid(slide), slide=0)  # as if it were linked there


def _relocated(section: Section, relocs: Relocs, slide: int) -> Section:
    if section.address < KERNEL_MAP or not section.data.size:
        return section  # per-CPU: counted from 0 wherever the kernel is
    data = section.data.copy()
    _grow(data, section, relocs.words, "<u4", slide)
    _grow(data, section, relocs.inverse, "<u4", -slide)
    _grow(data, section, relocs.quads, "<u8", slide)
    return replace(section, data=data)


def _grow(data: Bytes, section: Section, places: _U64, kind: str, by: int) -> None:
    width = np.dtype(kind).itemsize
    low, high = np.uint64(section.address), np.uint64(section.end - width + 1)
    at = (places[(places >= low) & (places < high)] - low).astype(np.int64)
    cells = data[at[:, None] + np.arange(width)]
    values = np.ascontiguousarray(cells).view(kind).reshape(-1).astype(np.uint64)
    values += np.uint64(by % (1 << 64))
    data[at[:, None] + np.arange(width)] = (
        values.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :width]
    )
