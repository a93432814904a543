"""The compiler's frames are read as rows, whatever instructions it used."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from harness.elf.debug_frame import (
    NO_REGISTER,
    SAME,
    UNTOLD,
    parse_debug_frame,
    read_debug_frame,
)
from harness.errors import FormatError
from tests.builders.elfwriter import ET_EXEC, ElfWriter

START, SIZE = 0xFFFFFFFF81000000, 0x400
# version, augmentation, alignments 1 and -8, return register; def_cfa rsp+8; ra at -8
CIE = bytes.fromhex("01 00 01 78 10 0c0708 9001".replace(" ", ""))
Row = tuple[int, int, int, int]


def entry(pointer: int, body: bytes) -> bytes:
    body = struct.pack("<I", pointer) + body
    body += bytes(-(len(body) + 4) % 8)
    return struct.pack("<I", len(body)) + body


def section(programs: Sequence[str], cie: bytes = CIE) -> bytes:
    """A section with one CIE and an FDE per program, one behind the other."""
    data = entry(0xFFFFFFFF, cie)
    for number, program in enumerate(programs):
        head = struct.pack("<QQ", START + number * SIZE, SIZE)
        data += entry(0, head + bytes.fromhex(program))
    return data


def rows(program: str, cie: bytes = CIE) -> list[Row]:
    """Offset, CFA's register and offset, and %rbp's rule of each row."""
    found = parse_debug_frame(np.frombuffer(section([program], cie), np.uint8))
    assert not found.covered[-1]
    assert int(found.address[-1]) == START + SIZE
    columns = (found.cfa_register, found.cfa_offset, found.rbp)
    offsets = (found.address - np.uint64(START)).tolist()
    values = zip(offsets, *(column.tolist() for column in columns), strict=True)
    return list(values)[:-1]


FIRST = (0, 7, 8, SAME)


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("", [FIRST]),
        ("41 0e10 8602", [FIRST, (1, 7, 16, -16)]),  # push %rbp
        ("41 0e10 8602 43 0d06", [FIRST, (1, 7, 16, -16), (4, 6, 16, -16)]),
        ("41 0c0610 41 0c0708", [FIRST, (1, 6, 16, SAME), (2, 7, 8, SAME)]),
        ("0240 0e8001", [FIRST, (0x40, 7, 128, SAME)]),
        ("030001 0e10", [FIRST, (0x100, 7, 16, SAME)]),
        ("0410010000 0e18", [FIRST, (0x110, 7, 24, SAME)]),
        ("41 8602 41 c6", [FIRST, (1, 7, 8, -16), (2, 7, 8, SAME)]),
        ("41 050602 41 0606", [FIRST, (1, 7, 8, -16), (2, 7, 8, SAME)]),
        ("41 11067e 41 0806", [FIRST, (1, 7, 8, 16), (2, 7, 8, SAME)]),
        ("41 0706 41 8602 41 090600", [FIRST, (1, 7, 8, UNTOLD), (2, 7, 8, -16), (3, 7, 8, UNTOLD)]),
        ("41 12077e 41 137d", [FIRST, (1, 7, 16, SAME), (2, 7, 24, SAME)]),
        ("41 0f02 7700 41 0c0708", [FIRST, (1, NO_REGISTER, 8, SAME), (2, 7, 8, SAME)]),
        ("41 1006 02 7600 41 2e10 0e10", [FIRST, (1, 7, 8, UNTOLD), (2, 7, 16, UNTOLD)]),
        ("41 1606 02 7600 8302 8c03", [FIRST, (1, 7, 8, UNTOLD)]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_every_instruction(program: str, expected: list[Row]) -> None:
    """Advances, CFA rules and %rbp's rules; other registers do not matter."""
    assert rows(program.replace(" ", "")) == expected


def test_a_kept_state_comes_back() -> None:
    """As behind an early return, twice, and one within another."""
    assert rows("41 0e10 8602 0a 41 c6 0e08 41 0b 41 0e20 0a 41 0e08 41 0b") == [
        FIRST,
        (1, 7, 16, -16),
        (2, 7, 8, SAME),
        (3, 7, 16, -16),
        (4, 7, 32, -16),
        (5, 7, 8, -16),
        (6, 7, 32, -16),
    ]
    nested = rows("0e10 0a 0e18 0a 0e20 41 0b 41 0b")
    assert [row[2] for row in nested] == [32, 24, 16]


def test_functions_do_not_mix() -> None:
    """Each program begins with its CIE's rules, and ends where its function does."""
    data = section(["410e10", "", "420e20"])
    found = parse_debug_frame(np.frombuffer(data, np.uint8))

    offsets = (found.address - np.uint64(START)).tolist()
    assert list(zip(offsets, found.cfa_offset.tolist(), found.covered.tolist(), strict=True)) == [
        (0, 8, True),
        (1, 16, True),
        (SIZE, 0, False),
        (SIZE, 8, True),
        (2 * SIZE, 0, False),
        (2 * SIZE, 8, True),
        (2 * SIZE + 2, 32, True),
        (3 * SIZE, 0, False),
    ]  # fmt: skip


def test_versions_of_cies() -> None:
    """DWARF 3 and 4 have other heads."""
    v3 = bytes.fromhex("0300017810" + "0c0708" + "9001")
    v4 = bytes.fromhex("04000800017810" + "0c0708" + "9001")
    assert rows("410e10", v3) == rows("410e10", v4) == rows("410e10")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\xff\xff\xff\xff" + bytes(20), "long entry"),
        (entry(0xFFFFFFFF, CIE)[:-4], "long entry"),
        (entry(0x40, bytes(24)), "no CIE"),
        (section(["3f"]), "unknown instruction"),
        (section(["0b"]), "not kept"),
        (section(["010000000000000000"]), "set_loc"),
        (section(["0e" + "ff" * 12]), "nine bytes"),
        (section([""], b"\x07\x00" + CIE[2:]), "version 7"),
        (section([""], b"\x01zR\x00" + CIE[2:]), "augmentation"),
        (section([""], CIE + b"\x0a"), "0xa in a CIE"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damage_is_told(data: bytes, said: str) -> None:
    """Each kind of damage has its message."""
    with pytest.raises(FormatError, match=said):
        parse_debug_frame(np.frombuffer(data, np.uint8))


def write(
    tmp_path: Path, data: bytes | None, flags: int = 0, **attributes: int
) -> Path:
    writer = ElfWriter(ET_EXEC)
    writer.section(".text", b"\xc3", flags=6, address=START)
    if data is not None:
        writer.section(".debug_frame", data, flags=flags, **attributes)
    path = tmp_path / "vmlinux"
    path.write_bytes(writer.build())
    return path


def test_a_compressed_section(tmp_path: Path) -> None:
    """CONFIG_DEBUG_INFO_COMPRESSED packs it."""
    data = section(["410e10"])
    packed = struct.pack("<IIQQ", 1, 0, len(data), 8) + zlib.compress(data)

    plain = read_debug_frame(write(tmp_path, data))
    unpacked = read_debug_frame(write(tmp_path, packed, flags=0x800))

    assert plain is not None
    assert unpacked is not None
    assert plain.address.tolist() == unpacked.address.tolist()
    with pytest.raises(FormatError, match="damaged"):
        read_debug_frame(write(tmp_path, packed[:-9], flags=0x800))
    with pytest.raises(FormatError, match="compression 9"):
        read_debug_frame(write(tmp_path, b"\x09" + packed[1:], flags=0x800))


def test_there_need_be_none(tmp_path: Path) -> None:
    """Most kernels have no debug information."""
    assert read_debug_frame(write(tmp_path, None)) is None
