"""The fields of an instruction's encoding."""

from __future__ import annotations

import pytest

from harness.text.operand import Encoding, parse_encoding


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4889e5", Encoding(0x89, 0x48, False, 3, 4, 5, False, 0, 3)),
        ("4c8b642410", Encoding(0x8B, 0x4C, False, 1, 12, 4, False, 16, 5)),
        ("488d6424f8", Encoding(0x8D, 0x48, False, 1, 4, 4, False, -8, 5)),
        ("498923", Encoding(0x89, 0x49, False, 0, 4, 11, False, 0, 3)),
        ("8b0500010000", Encoding(0x8B, 0, False, 0, 0, -1, False, 256, 6)),
        ("8b042500010000", Encoding(0x8B, 0, False, 0, 0, -1, False, 256, 7)),
        ("8b44c804", Encoding(0x8B, 0, False, 1, 0, 0, True, 4, 4)),
        ("6650", Encoding(0x50, 0, True, immediate=2)),
        ("0fa0", Encoding(0x0FA0, 0, False, immediate=2)),
        ("50", Encoding(0x50, 0, False, immediate=1)),
        ("48", Encoding(0, 0x48, False)),
        ("", Encoding(0, 0, False)),
        ("658b5008", Encoding(0x8B, 0, False, 1, 2, 0, False, 8, 4, elsewhere=True)),
        ("f30f7ec0", Encoding(0x0F7E, 0, False, 3, 0, 0, False, 0, 4, repeat=0xF3)),
        ("660f3a16c000", Encoding(0x0F3A16, 0, True, 3, 0, 0, False, 0, 5)),
        ("0f38", Encoding(0x0F38, 0, False, immediate=2)),
    ],
)
def test_parse_encoding(text: str, expected: Encoding) -> None:
    """Prefixes, ModRM, SIB and displacement end up in their fields."""
    assert parse_encoding(bytes.fromhex(text)) == expected
