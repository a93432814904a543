"""The driver: what lies in the guest's text, and that it is gone afterwards."""

from __future__ import annotations

import ctypes
import mmap
import platform
import struct
from pathlib import Path

import numpy as np
import pytest

from harness.boot import driver
from harness.boot.gdb import Gdb
from harness.errors import FormatError
from harness.text.decode import decode_all
from tests.builders import image
from tests.builders.elfwriter import ALLOC, ET_EXEC, EXEC, ElfWriter
from tests.builders.guest import STATES, SimulatedGuest
from tests.builders.rspserver import serving


def test_its_places_are_instructions() -> None:
    """The breakpoint has room for a jump (two bytes), and ``poke`` begins behind it."""
    insns = decode_all(np.frombuffer(driver.CODE, np.uint8), 0)
    sizes = dict(zip(insns.address.tolist(), insns.size.tolist(), strict=True))
    assert sizes[driver.END] == 2
    assert driver.POKE in sizes
    assert sum(sizes.values()) == len(driver.CODE)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="SKIP: its code is x86-64")
def test_it_calls_one_after_the_other() -> None:
    """Run here, as C runs a function: it pokes, and keeps what each call returned."""
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    view = ctypes.c_char.from_buffer(page)
    base = ctypes.addressof(view)
    at, records, word, enter = 0x100, 0x800, 0xC00, 0x10
    page[0:4] = bytes.fromhex("488d0437")  # lea (%rdi,%rsi),%rax
    page[4:9] = bytes.fromhex("4801d0c390")  # add %rdx,%rax; ret
    # push %rbx; push %rbp; mov %rdi,%rbx; mov %esi,%ebp; jmp driver
    jump = (at - enter - 12).to_bytes(4, "little")
    page[enter : enter + 12] = bytes.fromhex("53 55 4889fb 89f5 e9") + jump
    page[at : at + len(driver.CODE)] = driver.CODE
    page[at + driver.END : at + driver.END + 2] = b"\xeb\x20"  # out, behind the code
    out = at + driver.END + 0x22
    page[out : out + 3] = bytes.fromhex("5d5bc3")  # pop %rbp; pop %rbx; ret
    calls = [
        (base + word, 0x1234, 0, base + at + driver.POKE),
        (1, 20, 300, base),
        (base + word + 8, 0x5678, 0, base + at + driver.POKE),
        (4, 50, 600, base),
    ]
    list_of_calls = b"".join(driver.RECORD.pack(*call) for call in calls)
    page[records : records + len(list_of_calls)] = list_of_calls

    run = ctypes.CFUNCTYPE(None, ctypes.c_uint64, ctypes.c_uint32)(base + enter)
    run(base + records, len(calls))

    results = [
        driver.RECORD.unpack_from(page, records + 32 * number)[0] for number in (1, 3)
    ]
    assert results == [321, 654]
    assert struct.unpack_from("<2Q", page, word) == (0x1234, 0x5678)


def test_the_text_is_whole_afterwards(tmp_path: Path) -> None:
    """Text and breakpoints are what they were."""
    served = SimulatedGuest()
    before = served.bytes_at(image.TEXT, image.TEXT_SIZE)
    path = tmp_path / "gdb.sock"
    with serving(served, path), Gdb.connect(path, timeout_s=5) as gdb:
        with driver.installed(gdb, image.TEXT):
            assert served.bytes_at(image.TEXT, len(driver.CODE)) == driver.CODE
            assert served.breakpoints == {image.TEXT + driver.END}
        assert served.breakpoints == set()
    assert served.bytes_at(image.TEXT, image.TEXT_SIZE) == before


def test_a_guest_on_a_users_page_tables_goes_on_first(tmp_path: Path) -> None:
    """Its text can be put back only where it is mapped."""
    served = SimulatedGuest()
    path = tmp_path / "gdb.sock"
    with (
        serving(served, path),
        Gdb.connect(path, timeout_s=5) as gdb,
        driver.installed(gdb, image.TEXT),
    ):
        served.unmapped_at = STATES[0].rip
        served.states = [STATES[1]]
    assert served.bytes_at(image.TEXT, len(driver.CODE)) != driver.CODE
    assert served.turn


def test_a_kernel_that_has_no_room_for_it() -> None:
    """Its first function may be too short, or have no name."""
    program, _ = image.image(symbols={"startup_64": 0})
    seen = "has 0 bytes of startup_64 in .text, expected 42"
    with pytest.raises(FormatError, match=seen):
        driver.place(program)


def test_it_is_not_in_init_text() -> None:
    """The boot CPU's first instructions are freed in 7.2; another's are not."""
    writer = ElfWriter(ET_EXEC)
    code = bytes(len(driver.CODE))
    for name, address, symbol in (
        (".init.text", image.INIT_TEXT, "startup_64"),
        (".text", image.TEXT, "secondary_startup_64"),
    ):
        section = writer.section(name, code, flags=ALLOC | EXEC, address=address)
        writer.symbol(symbol, section, address, len(code))
    assert driver.place(writer.program("vmlinux")) == image.TEXT


def test_records_are_what_it_reads() -> None:
    """It goes on by the size of one, and takes %rdi, %rsi, %rdx and the function."""
    assert driver.RECORD.size == struct.calcsize("<4Q") == 0x20
