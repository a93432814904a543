"""The bytes of instructions, read where they lie."""

from __future__ import annotations

import numpy as np
import pytest

from harness.text.code import Code, code_of, join


def made(count: int, size: int = 24) -> Code:
    """``count`` texts of ``size`` bytes far apart, an instruction at every fifth."""
    texts = [
        (np.arange(size, dtype=np.uint8) + np.uint8(n), 0x1000 * (n + 1))
        for n in range(count)
    ]
    place = [address + at for _, address in texts for at in range(0, size, 5)]
    return code_of(np.array(place, np.uint64), texts[::-1])


@pytest.mark.parametrize("count", [1, 3, 40])
def test_rows_are_read_from_their_text(count: int) -> None:
    """Few texts or many, each row starts with its own bytes, whole or one by one."""
    code = made(count)
    rows = np.arange(len(code))
    first = [n + at for n in range(count) for at in range(0, 24, 5)]
    assert code[:][:, 0].tolist() == first
    assert code[rows[::-1]][:, 1].tolist() == [byte + 1 for byte in first[::-1]]
    assert [code.one(row, 2) for row in rows] == [bytes([b, b + 1]) for b in first]
    assert (code.words(slice(None)) & np.uint64(0xFF)).tolist() == first


def test_behind_the_last_text_there_are_zeros() -> None:
    """Nothing is read that is not there."""
    code = made(2)
    assert code[np.array([9])].tolist() == [[21, 22, 23, 24, *[0] * 12]]


def test_a_text_shorter_than_an_instruction() -> None:
    """Three bytes of code are three bytes of code."""
    assert made(1, 3)[:].tolist() == [[0, 1, 2, *[0] * 13]]


def test_nothing_has_no_bytes() -> None:
    """No instructions, no texts."""
    assert code_of(np.zeros(0, np.uint64), [])[:].shape == (0, 16)


def test_joined_and_taken() -> None:
    """What is joined keeps its bytes, though the places were the same."""
    one, other = made(2), made(3)
    both = join([one, other])
    assert both[:].tolist() == [*one[:].tolist(), *other[:].tolist()]
    rows = np.array([11, 0, 20])
    assert both.take(rows)[:].tolist() == both[rows].tolist()
