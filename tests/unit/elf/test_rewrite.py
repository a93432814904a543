"""A kernel's file with other bytes in its code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from harness.elf.load import load
from harness.elf.rewrite import rewritten
from harness.errors import UserError
from tests.builders.elfwriter import ALLOC, ET_EXEC, EXEC, ElfWriter

BASE = 0xFFFFFFFF81000000


def test_only_the_code_changes(tmp_path: Path) -> None:
    """The bytes of executable sections are replaced where they are; nothing else is."""
    writer = ElfWriter(ET_EXEC)
    writer.section(".text", b"\x90" * 8, flags=ALLOC | EXEC, address=BASE)
    writer.section(".rodata", b"\x90" * 8, address=BASE + 0x1000)
    path = tmp_path / "vmlinux"
    path.write_bytes(writer.build())
    program = load(path)
    text = program.section(".text")
    assert text is not None
    data = text.data.copy()
    data[3] = 0xFC
    other = tuple(
        replace(s, data=data) if s.name == ".text" else s for s in program.sections
    )
    changed = rewritten(path, replace(program, sections=other))
    before = np.frombuffer(path.read_bytes(), np.uint8)
    assert np.flatnonzero(before != changed).size == 1
    path.write_bytes(changed.tobytes())
    assert load(path).read(BASE, 8).tobytes() == b"\x90" * 3 + b"\xfc" + b"\x90" * 4


def test_an_object_is_not_linked(tmp_path: Path) -> None:
    """A module is patched where it is loaded: its file has no such text."""
    writer = ElfWriter()
    writer.section(".text", b"\x90", flags=ALLOC | EXEC)
    path = tmp_path / "crc7.ko"
    path.write_bytes(writer.build())
    with pytest.raises(UserError, match="not linked"):
        rewritten(path, load(path))
