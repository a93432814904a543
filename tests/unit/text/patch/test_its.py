"""Thunks that a kernel allocates for indirect branches at unsafe addresses."""

from __future__ import annotations

import pytest

from harness.text.patch.its import PAGE, Thunks, is_unsafe

BASE, SECOND = 0xFFFFFFFFC0000000, 0xFFFFFFFFC0005000


@pytest.mark.parametrize(
    ("at", "register", "unsafe"),
    [
        (0x1000, 0, True),
        (0x101E, 0, True),
        (0x101F, 0, False),
        (0x101E, 8, False),
        (0x1020, 0, False),
        (0x103F, 0, True),
    ],
)
def test_a_branch_is_unsafe_by_its_last_byte(
    at: int, register: int, unsafe: bool
) -> None:
    """Two bytes long, three with a register from r8 on."""
    assert is_unsafe(at, register) == unsafe


def test_thunks_lie_in_the_upper_halves_of_cache_lines() -> None:
    """Each ends there, too; then the next line's upper half is next."""
    thunks = Thunks()
    offsets = []
    for _ in range(24):
        at = thunks.next(0, lambda: BASE + 32)
        assert at is not None
        offsets.append(at - BASE)
    assert offsets[:3] == [32, 35, 38]
    assert all((offset + 2) % 64 >= 32 for offset in offsets)
    assert offsets[9:12] == [59, 96, 99]
    assert sorted(offsets) == offsets


def test_each_page_is_told_once() -> None:
    """Only the first branch into it is asked; a wrong one later is seen."""
    asked = []

    def told() -> int:
        asked.append(1)
        return (BASE if len(asked) == 1 else SECOND) + 32

    thunks = Thunks()
    found = [thunks.next(15, told) for _ in range(PAGE // 4)]
    assert len(asked) == 2
    assert found[0] == BASE + 32
    assert SECOND + 32 in found


def test_what_is_no_page_is_not_believed() -> None:
    """Its branches stay as linked: they will be seen to differ."""
    thunks = Thunks()
    assert thunks.next(0, lambda: BASE + 33) is None
    assert thunks.next(0, lambda: BASE + 35) is None
