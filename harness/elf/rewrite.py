"""Rewrite: a linked kernel's file with other bytes in its code, nothing moved."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness.elf import bzimage
from harness.elf.file import ET_REL, Bytes, parse_elf, read_file
from harness.elf.program import Program
from harness.errors import UserError


def rewritten(path: Path, program: Program) -> Bytes:
    """Return the ELF file of ``path`` with the code of ``program``, which it holds.

    Of a bzImage that is the kernel in it.

    Raises:
        FormatError: the file cannot be read.
        UserError: it is not linked: its code has no addresses to be patched for.
    """
    content = read_file(path)
    if bzimage.is_bzimage(content):
        content = bzimage.parse_bzimage(content, path.name).vmlinux
    elf = parse_elf(content, path.name)
    if elf.type == ET_REL:
        raise UserError(
            f"{path} is not linked: a module's text is patched where it is loaded",
            hint="give a vmlinux",
        )
    data = np.array(content)
    for section in program.executable:
        header = elf.headers[section.index]
        offset = int(header["offset"]) + section.address - int(header["address"])
        data[offset : offset + len(section.data)] = section.data
    return data
