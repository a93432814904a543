"""What some reader refuses is spelt out; all else is left as it is."""

from __future__ import annotations

import pytest

from harness.character import spelt


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\0\a\x1b\x7f\x85", r"\x00\x07\x1b\x7f\x85"),
        ("caf\udce9 \ud800\ufffe", r"caf\udce9 \ud800\ufffe"),
        ("a\tb\r\nc", "a\tb\r\nc"),
        ("café × \U0001f600 \u2028 \\x1b", "café × \U0001f600 \u2028 \\x1b"),
    ],
)
def test_spelt(text: str, expected: str) -> None:
    """Controls but for white space, surrogates, and what is no character in XML."""
    assert spelt(text) == expected
    assert spelt(expected) == expected
