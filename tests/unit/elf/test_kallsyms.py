"""A kernel's own symbols are found and read, however its time wrote them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.elf.kallsyms import Kallsyms, _walk, parse_kallsyms
from harness.elf.load import load
from harness.verify.extent import functions
from tests.builders.elfwriter import (
    ALLOC,
    ET_EXEC,
    EXEC,
    UND,
    ElfWriter,
    add_orc,
    call,
    regs,
)
from tests.builders.kallsyms import LAYOUTS, Layout, Symbol, kallsyms

TEXT = 0xFFFFFFFF81000000
BETWEEN = 0xFFFFFFFF81800000
RODATA = 0xFFFFFFFF82000000
COUNT = 2400


def symbols(layout: Layout) -> list[Symbol]:
    """Enough of them for the markers to show; per-CPU ones where they are absolute."""
    percpu = [(16 * n, "A", f"percpu{n}") for n in range(3)] if layout.absolute else []
    long = [(TEXT + 16 * COUNT, "t", "x" * 300)] if layout.long_names else []
    code = [(TEXT + 16 * n, "Tt"[n % 2], f"fn_{n}") for n in range(COUNT)]
    return [*percpu, *code, *long]


def parse(data: bytes) -> Kallsyms | None:
    return parse_kallsyms(np.frombuffer(data, np.uint8), RODATA)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_reads_back(layout: Layout) -> None:
    """Addresses, letters and names, the last one and the longest among them."""
    written = symbols(layout)

    read = parse(kallsyms(written, layout, RODATA))

    assert read is not None
    letters = map(chr, read.type.tolist())
    names = read.names.column().tolist()
    assert list(zip(read.address.tolist(), letters, names, strict=True)) == written


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_what_is_damaged_is_not_believed(layout: Layout) -> None:
    """Tables that do not agree with each other are no tables."""
    whole = kallsyms(symbols(layout), layout, RODATA)
    for part in (whole[: len(whole) // 2], whole[len(whole) // 2 :], whole[:-9000]):
        assert parse(part) is None
    broken = bytearray(whole)
    at = whole.index(b"\x017") - 2  # the length of fn_7, in front of its letter
    broken[at] += 1
    assert parse(bytes(broken)) is None


def test_a_symbol_without_a_letter_is_not_believed() -> None:
    """A name has at least its letter; without it the table is something else."""
    walked = [
        _walk(np.array(names, np.uint8), 3, np.zeros(1, np.int64))
        for names in ([1, 5, 1, 6, 1, 7], [1, 5, 0, 2, 6, 7])
    ]
    assert walked[0] is not None
    assert walked[1] is None


def test_there_need_be_none() -> None:
    """A kernel without CONFIG_KALLSYMS has no such table, whatever digits it holds."""
    digits = b"".join(b"%d\0" % n for n in range(10))
    assert parse(bytes(1000) + digits * 5 + bytes(5000)) is None


def stripped(tmp_path: Path) -> Path:
    """A kernel of `first` (2 bytes and fill), a label `inner` and `last`."""
    code = bytearray(b"\xcc" * 16 * (COUNT + 4))
    code[0:2] = bytes.fromhex("90c3")
    code[16:18] = bytes.fromhex("50c3")
    code[64:80] = b"\xb8\x78\x56\x34\x12" + b"\x90" * 11
    code[96:112] = b"\xb8\x78\x56\x34\x12\xc3" + b"\x90" * 10
    writer = ElfWriter(ET_EXEC)
    text = writer.section(".text", bytes(code), flags=ALLOC | EXEC, address=TEXT)
    bound = (BETWEEN, "D", "__init_begin")
    layout = LAYOUTS["6.4"]
    end = (TEXT + len(code), "T", "_etext")
    table = kallsyms([*symbols(layout), end, bound], layout, RODATA)
    table += bytes(1 << 16)  # as much as a small kernel has
    writer.section(".rodata", table, address=RODATA)
    states = [(0, call(8)), (2, UND), (16, regs(8)), (18, UND), (32, call(8))]
    states += [(80, UND), (96, call(8)), (112, UND)]
    add_orc(writer, text, states, address=RODATA + 0x1000000)
    path = tmp_path / "vmlinuz-6.4-test"
    path.write_bytes(writer.build(symbols=False))
    return path


def test_a_stripped_kernel_has_names(tmp_path: Path) -> None:
    """Its places are named, it is called vmlinux, and per-CPU names are no places."""
    program = load(stripped(tmp_path))

    assert str(program.location(TEXT + 17)) == "fn_1+0x1"
    assert program.location(TEXT).object == "vmlinux"
    assert program.symbols.find("percpu1") is None
    assert any("names from its kallsyms" in note for note in program.notes)


def test_a_bound_may_lie_in_no_section(tmp_path: Path) -> None:
    """The linker script's bounds are found where sections are padded, too."""
    program = load(stripped(tmp_path))

    row = program.symbols.index(BETWEEN)
    assert program.symbols.find("__init_begin") == BETWEEN
    assert (program.symbols.section[row], program.symbols.size[row]) == (-1, 0)


def test_a_bound_at_the_end_is_of_what_it_ends(tmp_path: Path) -> None:
    """There the table ends, too, and says so at _etext."""
    program = load(stripped(tmp_path))

    end = TEXT + 16 * (COUNT + 4)
    assert str(program.location(end)) == "_etext"
    assert program.symbols.size[program.symbols.index(end)] == 0
    assert program.location(BETWEEN).symbol == f"{BETWEEN:#x}"


def test_sizes_leave_out_the_fill(tmp_path: Path) -> None:
    """A symbol ends where the fill in front of the next one begins."""
    program = load(stripped(tmp_path))

    assert program.symbols.size[:2].tolist() == [2, 2]


def test_functions_are_where_the_table_starts_one(tmp_path: Path) -> None:
    """A label in the state of a function's entry is one, another label is not."""
    program = load(stripped(tmp_path))

    assert program.symbols.functions[:3].tolist() == [True, False, True]


def test_what_has_a_hash_of_kcfi_in_front_is_a_function(tmp_path: Path) -> None:
    """Though the table says nothing of it; the end of a function is no hash."""
    program = load(stripped(tmp_path))

    assert program.symbols.functions[4:8].tolist() == [True, True, True, False]


def test_labels_have_no_extent(tmp_path: Path) -> None:
    """How long they are is not told, nor whether they are entries of their own."""
    program = load(stripped(tmp_path))

    assert program.guessed
    start, end = functions(program)
    assert (start[:2] - np.uint64(TEXT)).tolist() == [0, 32]
    assert (end - start)[0] == 2
