"""Long runs of one byte are left out of the sweep."""

from __future__ import annotations

import numpy as np
import pytest

from harness.text.fill import stretches


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"\x55" * 200, [(0, 200)]),
        (b"\xcc" * 200, []),
        (b"\x55" * 16 + b"\xcc" * 200, [(0, 32)]),
        (b"\xcc" * 200 + b"\x55", [(200, 201)]),
        (b"\x55" * 8 + b"\x90" * 4096 + b"\x55" * 8, [(0, 24), (4104, 4112)]),
        (b"\x55" * 8 + b"\x90" * 128 + b"\x55" * 8, [(0, 144)]),  # they run
        # the run goes on in the same byte behind the last whole word
        (b"\x55" * 8 + b"\x00" * 131 + b"\x55" * 5, [(0, 24), (139, 144)]),
        (b"\x55" * 8 + b"\xcc" * 40 + b"\x55" * 16, [(0, 64)]),  # too short
        (b"\xcc" * 64 + b"\x00" * 64, []),
    ],
)
def test_stretches(data: bytes, expected: list[tuple[int, int]]) -> None:
    """What lies between the runs, and a little of the run's start."""
    assert stretches(np.frombuffer(data, np.uint8)) == expected
