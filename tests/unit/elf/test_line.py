"""A few addresses are given their source lines, where debug information tells."""

from __future__ import annotations

from pathlib import Path

from harness.elf.line import lines_of
from tests.builders.debugline import Rows, add_lines
from tests.builders.elfwriter import ALLOC, ET_EXEC, ET_REL, EXEC, ElfWriter

START = 0xFFFFFFFF81000000


ROWS = ((4, 10), (8, 17), (4, 12))


def write(
    tmp_path: Path,
    kind: int = ET_EXEC,
    *,
    lines: bool = True,
    rows: Rows = ROWS,
) -> Path:
    writer = ElfWriter(kind)
    writer.section(".text", bytes(16), flags=ALLOC | EXEC, address=START)
    if lines:
        add_lines(writer, START, rows)
    path = tmp_path / "vmlinux"
    path.write_bytes(writer.build())
    return path


def test_each_address_has_the_line_that_it_lies_in(tmp_path: Path) -> None:
    """The first byte, the last byte, and one that belongs to nobody."""
    wanted = [START, START + 5, START + 11, START + 15, START + 16]

    assert lines_of(write(tmp_path), wanted) == {
        START: "kernel/fork.c:10",
        START + 5: "kernel/fork.c:17",
        START + 11: "kernel/fork.c:17",
        START + 15: "kernel/fork.c:12",
    }


def test_code_of_no_line_has_none(tmp_path: Path) -> None:
    """DWARF gives it line 0; what follows it has its own again."""
    found = lines_of(write(tmp_path, rows=[(4, 0), (8, 17)]), [START, START + 4])

    assert found == {START + 4: "kernel/fork.c:17"}


def test_without_debug_information_there_are_none(tmp_path: Path) -> None:
    """Neither in a stripped kernel, nor in an object, whose addresses are ours."""
    assert lines_of(write(tmp_path, lines=False), [START]) == {}
    assert lines_of(write(tmp_path, ET_REL), [START]) == {}


def test_what_is_no_elf_file_has_none(tmp_path: Path) -> None:
    """A bzImage is judged, too."""
    path = tmp_path / "bzImage"
    path.write_bytes(b"MZ" + bytes(100))

    assert lines_of(path, [START]) == {}
