"""What the plugin reads: the table's file, and instructions."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from harness.boot.kernel_text import KernelText
from harness.boot.shadow import table
from harness.elf.orc import OrcFormat, OrcTable, OrcType
from tests.unit.boot.shadow.machine import COMPILER, Machine, library

pytestmark = pytest.mark.skipif(not COMPILER, reason="no C compiler on this host")


def decoded(code: str, pc: int = 0x1000) -> tuple[int, int, int | None]:
    """Return flow, target and what is added to %rsp (None: not known) of ``code``."""
    lib, data = library(), bytes.fromhex(code)
    lib.start(False, ctypes.c_uint64(0), False)
    size = ctypes.c_uint64(len(data))
    at = ctypes.c_uint64(lib.place(ctypes.c_uint64(pc), data, size, size))
    return lib.flow(at), lib.target(at), lib.delta(at) if lib.known(at) else None


PLAIN, JUMP, JUMP_INDIRECT, CALL, CALL_INDIRECT, RET, IRET, FAR = range(8)


@pytest.mark.parametrize(
    ("code", "flow", "target"),
    [
        ("90", PLAIN, 0),
        ("e800010000", CALL, 0x1105),
        ("e9fbffffff", JUMP, 0x1000),
        ("ebfe", JUMP, 0x1000),
        ("3e7402", JUMP, 0x1005),
        ("0f8500010000", JUMP, 0x1106),
        ("41ffd3", CALL_INDIRECT, 0),
        ("2effe0", JUMP_INDIRECT, 0),
        ("65ff2500000000", JUMP_INDIRECT, 0),
        ("ff15aabbcc00", CALL_INDIRECT, 0),
        ("f3c3", RET, 0),
        ("c20800", RET, 0),
        ("48cb", RET, 0),
        ("48cf", IRET, 0),
        ("0f05", FAR, 0),
        ("480f07", FAR, 0),
        ("ff30", PLAIN, 0),  # push (%rax)
        ("0fb6c0", PLAIN, 0),
    ],
)
def test_where_control_goes(code: str, flow: int, target: int) -> None:
    """With any prefixes; a target only where the code tells one."""
    assert decoded(code)[:2] == (flow, target)


@pytest.mark.parametrize(
    ("code", "delta"),
    [
        ("4889c4", None),  # mov %rax, %rsp
        ("4989c4", 0),  # mov %rax, %r12
        ("48890424", 0),  # mov %rax, (%rsp)
        ("488b2424", None),  # mov (%rsp), %rsp
        ("4c8b2424", 0),  # mov (%rsp), %r12
        ("488d642408", None),  # lea 8(%rsp), %rsp
        ("4883ec10", -16),  # sub $16, %rsp
        ("4839e0", 0),  # cmp %rsp, %rax
        ("4883c310", 0),  # add $16, %rbx
        ("50", -8),
        ("6650", None),  # push %ax
        ("4154", -8),
        ("6a00", -8),
        ("415c", 8),  # pop %r12
        ("5c", None),  # pop %rsp
        ("4881c400010000", 0x100),
        ("4983c410", 0),  # add $16, %r12
        ("83ec10", None),  # sub $16, %esp
        ("9c", -8),
        ("c9", None),
        ("4894", None),  # xchg %rax, %rsp
        ("f390", 0),  # pause
        ("0f1f440000", 0),
        ("f30f1efa", 0),  # endbr64
        ("480fb6e0", None),  # movzbl %al, %rsp
        ("0fb6c0", 0),
        ("f7d8", 0),
        ("ff30", None),  # push (%rax)
        ("48ffc4", None),  # inc %rsp
        ("48ffc0", None),  # inc %rax: others of its group push
        ("0f22d8", 0),  # mov %rax, %cr3
        ("0f01f8", 0),  # swapgs
        ("f348a5", 0),  # rep movsq
        ("bc00000000", None),  # mov $0, %esp
    ],
)
def test_what_is_added_to_the_stack_pointer(code: str, delta: int | None) -> None:
    """What may do something else is never taken to be known."""
    assert decoded(code)[2] == delta


def orc_table() -> OrcTable:
    ip = np.array([0x1000, 0x1004, 0x2000], dtype=np.uint64)
    column = np.array([1, 2, 3], dtype=np.uint8)
    offsets = np.array([8, -16, 24], dtype=np.int16)
    return OrcTable(
        ip=ip,
        sp_offset=offsets,
        bp_offset=offsets,
        sp_reg=column,
        bp_reg=column,
        type=column,
        signal=np.zeros(3, dtype=bool),
        raw=np.zeros(3, dtype=np.uint16),
        format=OrcFormat.V3,
        from_header=True,
    )


def test_the_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Ranges and all; a file that was cut is refused."""
    text = KernelText(((0x1000, 0x1010), (0x2000, 0x2001)), (0, 0), [], [])
    path = tmp_path / "table"
    data = table.columns(orc_table(), text, np.array([0x1000, 0x2000], dtype=np.uint64))
    path.write_bytes(data)
    lib = library()
    assert lib.table_load(str(path).encode())
    inside = [lib.table_knows(ctypes.c_uint64(at)) for at in (0xFFF, 0x100F, 0x1010)]
    assert inside == [False, True, False]
    path.write_bytes(data[:-1])
    assert not lib.table_load(str(path).encode())


MODULE = 0xFFFFFFFFC0000000
CALL_SP, NOTHING = 0x205, 0  # type and registers of format v3


def loaded(at: int, *rows: tuple[int, int], sp_offset: int = 8, first: int = 3) -> None:
    """Load a module's table: (address, word); it is where no text is."""
    count = len(rows)
    where = [ip - (at + 4 * number) for number, (ip, _) in enumerate(rows)]
    entries = b"".join(struct.pack("<2hH", sp_offset, 0, word) for _, word in rows)
    library().module_add(
        b"m".ljust(56, b"\0"),
        first,
        ctypes.c_uint64(at),
        (ctypes.c_int32 * count)(*where),
        entries,
        ctypes.c_size_t(count),
    )


def claims(pc: int) -> tuple[int, int]:
    """Return the row that holds at ``pc``, and the offset that it claims."""
    lib, data = library(), b"\x90"
    size = ctypes.c_uint64(1)
    at = ctypes.c_uint64(lib.place(ctypes.c_uint64(pc), data, size, size))
    lib.table_claim(at)
    return lib.row(at), lib.sp_offset(at)


@pytest.fixture
def lib(tmp_path: Path) -> Iterator[ctypes.CDLL]:
    """Yield the rules with a kernel's table, and no module."""
    text = KernelText(((0x1000, 0x1010),), (0, 0), [], [])
    path = tmp_path / "table"
    none = np.zeros(0, dtype=np.uint64)
    path.write_bytes(table.columns(orc_table(), text, none))
    lib = library()
    assert lib.table_load(str(path).encode())
    lib.module_forget()
    yield lib
    lib.module_forget()


def test_modules_have_tables_of_their_own(lib: ctypes.CDLL) -> None:
    """Rows count on, in the order of the file, whatever that of the addresses is."""
    late, early = MODULE + 0x1000, MODULE
    loaded(MODULE + 0x9000, (late, CALL_SP), (late + 4, NOTHING), (early, CALL_SP))
    assert claims(late + 3) == (3, 8)
    assert claims(late + 4)[0] == -1
    assert claims(early - 1)[0] == -1
    assert claims(early) == (5, 8)
    assert claims(0x1002)[0] == 0
    assert lib.module_rows() == 3


@pytest.mark.usefixtures("lib")
def test_a_module_in_the_place_of_another() -> None:
    """What was unloaded claims nothing any more; its neighbour does."""
    end = [(MODULE + 0x100, NOTHING)]
    loaded(MODULE + 0x9000, (MODULE, CALL_SP), (MODULE + 8, CALL_SP), *end)
    other = MODULE + 0x2000
    loaded(MODULE + 0x9100, (other, CALL_SP), (other + 8, NOTHING), first=6)
    loaded(MODULE + 0x9200, (MODULE + 4, CALL_SP), *end, sp_offset=16, first=8)
    assert claims(MODULE + 8) == (8, 16)
    assert claims(MODULE)[0] == -1
    assert claims(other) == (6, 8)


@pytest.mark.usefixtures("lib")
@pytest.mark.parametrize("apart", [0x1000, 0x2000])
def test_a_module_in_the_place_of_anothers_init_text(apart: int) -> None:
    """That was freed, adjacent or not; what the other has kept still claims."""
    core, init = MODULE + 0x4000, MODULE + 0x4000 + apart
    kept = (core, CALL_SP), (core + 0x1000, NOTHING)
    freed = (init, CALL_SP), (init + 0x100, NOTHING)
    loaded(MODULE + 0x9000, *freed, *kept)
    loaded(MODULE + 0x9100, (init + 8, CALL_SP), (init + 9, NOTHING), first=7)
    assert claims(core) == (5, 8)
    assert claims(init)[0] == -1
    loaded(MODULE + 0x9200, (core + 8, CALL_SP), (core + 0x1000, NOTHING), first=9)
    assert claims(core)[0] == -1
    assert claims(init + 8) == (7, 8)


@pytest.mark.usefixtures("lib")
def test_what_is_false_stays_with_the_module_that_was_there() -> None:
    """Another one that is loaded in its place is not blamed, nor has it its counts."""
    machine = Machine()
    end = [(MODULE + 0x100, NOTHING)]
    push, at, top = "55", MODULE + 8, 0xFFFFC90000003F00
    wrong, right = (OrcType.CALL, 16), (OrcType.CALL, 8)

    def run(nop: str, claim: tuple[OrcType, int]) -> int:
        machine.run(MODULE, "e803000000", top)
        return machine.run(at, nop, top - 8, claim)

    loaded(MODULE + 0x9000, (MODULE, CALL_SP), (at, CALL_SP), *end, first=3)
    assert run("90", wrong) == 0
    loaded(MODULE + 0x9000, (MODULE, CALL_SP), (at, CALL_SP), *end, first=6)
    assert run("90", right) == 1, "the same code, and another's row"
    assert run("f390", right) == 1, "other code in the same row"
    machine.run(at, push, top - 8, right)
    machine.run(at, push, top - 8, wrong)
    assert [(one.pc, one.row, one.count) for one in machine.mismatches] == [
        (at, 4, 1),
        (at, 7, 1),
    ]
