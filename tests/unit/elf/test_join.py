"""Objects that are read together: one program, and each place still its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.elf.load import load, load_together
from harness.elf.orc import OrcFormat, parse_orc
from harness.elf.paravirt import parse_parainstructions
from harness.elf.program import Program
from harness.errors import FormatError
from tests.builders.elfwriter import (
    ALLOC,
    ET_EXEC,
    EXEC,
    R_64,
    R_PLT32,
    UNDEF,
    WRITE,
    ElfWriter,
    add_orc,
    call,
)


def write(
    directory: Path, name: str, takes: str, orc: OrcFormat = OrcFormat.V3
) -> Path:
    """Write an object: ``local`` calls ``takes``, and is pointed to from a table."""
    writer = ElfWriter()
    text = writer.section(".text", b"\xe8\0\0\0\0\xc3", flags=ALLOC | EXEC, align=16)
    local = writer.symbol("local", text, 0, 6)
    taken = writer.symbol(takes, UNDEF)
    writer.relocation(text, 1, R_PLT32, taken, -4)
    table = writer.section("__table", bytes(8) * 3, align=64)
    for entry in range(3):
        writer.relocation(table, 8 * entry, R_64, local, entry)
    data = writer.section(".data", b"own", flags=ALLOC | WRITE, align=32)
    writer.symbol("variable", data, 0, 3)
    add_orc(writer, text, [(0, call(8)), (6, call(16))], orc)
    path = directory / name
    path.write_bytes(writer.build())
    return path


@pytest.fixture
def joined(tmp_path: Path) -> Program:
    """Three objects; the first and the last call the same function elsewhere."""
    takes = {"a.ko": "kfree", "b.ko": "kmalloc", "c.ko": "kfree"}
    paths = [write(tmp_path, *each) for each in takes.items()]
    return load_together(paths, ".orc_unwind")[0]


def test_tables_of_one_name_are_one(joined: Program) -> None:
    """They lie end to end whatever their alignment, each entry relocated."""
    table = joined.section("__table")
    assert table is not None

    pointers = table.data.view("<u8")

    starts = joined.symbols.address[joined.symbols.names == "local"]
    assert pointers.tolist() == [at + n for at in starts.tolist() for n in range(3)]


def test_a_table_that_ends_early(tmp_path: Path) -> None:
    """The last entry of .parainstructions has no padding behind it; others do."""
    paths = []
    for name, sites in (("a.ko", 1), ("b.ko", 2), ("c.ko", 1)):
        writer = ElfWriter()
        code = bytes.fromhex("ff142500000000" * sites + "c3")
        text = writer.section(".text", code, flags=ALLOC | EXEC)
        symbol = writer.symbol("f", text, 0, len(code))
        entries = b"".join(bytes(8) + bytes((n, 7)) + bytes(6) for n in range(sites))
        table = writer.section(".parainstructions", entries[:-6], align=8)
        for n in range(sites):
            writer.relocation(table, 16 * n, R_64, symbol, 7 * n)
        add_orc(writer, text, [(0, call(8)), (len(code), call(16))])
        paths.append(tmp_path / name)
        paths[-1].write_bytes(writer.build())

    program, _ = load_together(paths, ".orc_unwind")

    found = parse_parainstructions(program)
    assert found is not None
    assert found.type.tolist() == [0, 0, 1, 0]
    starts = [s.address for s in program.executable]
    assert found.address.tolist() == [starts[0], starts[1], starts[1] + 7, starts[2]]


def test_code_and_variables_stay_apart(joined: Program) -> None:
    """Each keeps its alignment and the name of the object that it is from."""
    for name, align in ((".text", 16), (".data", 32)):
        sections = [s for s in joined.sections if s.name == name]
        assert [s.object for s in sections] == ["a.ko", "b.ko", "c.ko"]
        assert all(s.address % align == 0 for s in sections)


def test_a_place_is_named_as_it_is_alone(joined: Program, tmp_path: Path) -> None:
    """Object, symbol, offset and section offset are those of the file alone."""
    for name, section in zip(("a.ko", "b.ko", "c.ko"), joined.executable, strict=True):
        alone = load(tmp_path / name)
        (text,) = alone.executable
        expected = alone.location(text.address + 5)
        found = joined.location(section.address + 5)
        assert (found, found.address) == (expected, expected.address)


def test_what_is_taken_from_elsewhere_has_one_slot(joined: Program) -> None:
    """So that a function is found by its name whoever calls it."""
    assert sorted(joined.externals.values()) == ["kfree", "kmalloc"]
    for section, name in zip(
        joined.executable, ("kfree", "kmalloc", "kfree"), strict=True
    ):
        offset = int(section.data[1:5].view("<i4")[0])
        target = (section.address + 5 + offset) % (1 << 64)
        assert joined.externals[target] == name
        assert joined.symbols.find(name) == target


def test_the_orc_tables_are_one(joined: Program) -> None:
    """It has the entries of all, each at its own object's code."""
    table = parse_orc(joined)
    assert table is not None
    ends = [address for s in joined.executable for address in (s.address, s.end)]
    assert table.sorted().ip.tolist() == ends
    assert np.unique(table.sp_offset).tolist() == [8, 16]


def test_objects_of_two_formats_are_refused(tmp_path: Path) -> None:
    """One header cannot speak for both: they must be read alone."""
    paths = [
        write(tmp_path, "old.ko", "kfree", OrcFormat.V3),
        write(tmp_path, "new.ko", "kfree", OrcFormat.V4),
    ]

    with pytest.raises(FormatError, match="unknown ORC layout"):
        parse_orc(load_together(paths, ".orc_unwind")[0])


def test_a_linked_kernel_is_refused(tmp_path: Path) -> None:
    """It has addresses already."""
    path = tmp_path / "vmlinux"
    writer = ElfWriter(ET_EXEC)
    writer.section(".text", b"\xc3", flags=ALLOC | EXEC)
    path.write_bytes(writer.build())

    with pytest.raises(FormatError, match="vmlinux: linked"):
        load_together([write(tmp_path, "a.ko", "kfree"), path], ".text")


def test_what_lacks_the_section_is_left_out(tmp_path: Path) -> None:
    """It is named, so that somebody looks at it alone; one that remains keeps its name."""
    data = tmp_path / "data.ko"
    data.write_bytes(ElfWriter().build())
    code = write(tmp_path, "a.ko", "kfree")

    program, others = load_together([data, code], ".orc_unwind")

    assert others == [data]
    assert program.location(program.executable[0].address).object == "a.ko"
    with pytest.raises(FormatError, match="none of 1 objects has a section"):
        load_together([data], ".orc_unwind")
