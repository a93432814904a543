"""A dump of memory as an ELF file."""

from __future__ import annotations

import numpy as np
import pytest

from harness.elf.core import Core, parse_core
from harness.errors import FormatError
from tests.builders.corefile import corefile

HIGH = 0xFFFFFFFF81000000
SEGMENTS = [(HIGH, 0x1000, b"abcd"), (HIGH + 4, 0x8000, b"efgh"), (0, 0x9000, b"i")]


def core_of(data: bytes) -> Core:
    """The dump in ``data``."""
    return parse_core(np.frombuffer(data, np.uint8), "vmcore")


@pytest.mark.parametrize("extended", [False, True])
def test_memory_is_read_by_either_address(extended: bool) -> None:
    """A note is no memory; what crosses two segments is read of both."""
    core = core_of(corefile(SEGMENTS, extended=extended))
    assert len(core.offset) == 3
    assert core.read(0x1001, 2, physical=True) == b"bc"
    assert core.read(0x8000, 4, physical=True) == b"efgh"
    assert core.read(HIGH + 2, 4, physical=False) == b"cdef"


def test_what_is_not_all_there_is_none() -> None:
    """Never a part of it."""
    core = core_of(corefile(SEGMENTS))
    assert core.read(0x1002, 4, physical=True) is None
    assert core.read(0x5000, 1, physical=True) is None
    assert core.read(HIGH + 7, 2, physical=False) is None


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x7fELF", "4 bytes, expected an ELF dump"),
        (bytes(64), "no ELF dump of memory"),
        (corefile(SEGMENTS, kind=2), "no ELF dump of memory"),
        (corefile(SEGMENTS, machine=183), "machine 183, expected x86-64"),
        (corefile(SEGMENTS)[:100], "do not fit into the file"),
        (corefile(SEGMENTS)[:-1], "truncated: a segment ends at"),
    ],
)
def test_what_is_no_dump_is_one_error(data: bytes, said: str) -> None:
    """Foreign, cut off, of another machine."""
    with pytest.raises(FormatError, match=said):
        core_of(data)
