"""The table of branches that static keys turn."""

from __future__ import annotations

import struct

from harness.elf.jump_label import parse_jump_labels
from tests.builders.elfwriter import ALLOC, ET_EXEC, EXEC, ElfWriter
from tests.builders.running import TABLES, TEXT, Kernel


def test_entries_of_16_bytes_count_from_their_own_fields() -> None:
    """The key's low bits are flags of the entry: bit 0 is the branch's sense."""
    kernel = Kernel(variables={"one": (0, 0), "two": (0, 0)})
    one, two = kernel.address("one"), kernel.address("two")
    kernel.labels = [(TEXT, TEXT + 8, one | 1), (TEXT + 16, TEXT + 24, two | 2)]
    labels = parse_jump_labels(kernel.linked())
    assert labels is not None
    assert len(labels) == 2
    assert labels.address.tolist() == [TEXT, TEXT + 16]
    assert labels.target.tolist() == [TEXT + 8, TEXT + 24]
    assert labels.key.tolist() == [one, two]
    assert labels.branch.tolist() == [True, False]


def test_entries_of_24_bytes_are_addresses() -> None:
    """Up to 4.18."""
    writer = ElfWriter(ET_EXEC)
    writer.section(".text", b"\x90" * 64, flags=ALLOC | EXEC, address=TEXT)
    data = struct.pack("<QQQ", TEXT + 1, TEXT + 9, TABLES + 0x801)
    writer.section("__jump_table", data, address=TABLES)
    labels = parse_jump_labels(writer.program("vmlinux"))
    assert labels is not None
    assert labels.target.tolist() == [TEXT + 9]
    assert labels.key.tolist() == [TABLES + 0x800]
    assert labels.branch.tolist() == [True]


def test_none_without_the_table() -> None:
    """CONFIG_JUMP_LABEL=n."""
    assert parse_jump_labels(Kernel().linked()) is None
