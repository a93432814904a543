"""Where instructions start, by a bitmap."""

from __future__ import annotations

import random

import numpy as np
import pytest

from harness.text import starts
from harness.text.decode import decode_all
from harness.text.insn import Insns
from harness.text.starts import starts_of

BASE = 0xFFFF_FFFF_8100_0003


def insns(seed: int) -> Insns:
    """Instructions of random bytes, some of them far from the others."""
    rng = np.random.default_rng(seed)
    near = decode_all(rng.integers(0, 256, 3000, np.uint8), BASE)
    keep = np.flatnonzero(rng.random(len(near)) < 0.7)
    return near.take(keep)


@pytest.mark.parametrize("seed", range(5))
def test_it_finds_what_bisection_finds(seed: int) -> None:
    """Any address, in the code, beside it and far from it, gives the same row."""
    some = insns(seed)
    bitmap = starts_of(some)
    assert bitmap is not None
    rng = random.Random(seed)
    asked = [BASE + rng.randrange(-200, 4000) for _ in range(40_000)]  # several pieces
    asked += [0, 1, (1 << 64) - 1, *some.address.tolist()]
    addresses = np.array(asked, np.uint64)
    assert bitmap.index(addresses).tolist() == some.index(addresses).tolist()


def test_no_bitmap_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of no instructions, nor of such as lie far apart."""
    some = insns(0)
    assert starts_of(some.take(slice(0, 0))) is None
    monkeypatch.setattr(starts, "WIDEST", 100)
    assert starts_of(some) is None
