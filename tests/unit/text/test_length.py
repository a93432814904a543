"""Lengths of the instructions that the decoder does not know."""

from __future__ import annotations

import pytest

from harness.text.insn import InsnKind
from harness.text.length import measure


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("0f01e8", 3),  # serialize
        ("f20f00f0", 4),  # lkgs %eax
        ("f2410f00f0", 5),
        ("f30f01fe", 4),  # rmpadjust
        ("0f01ff", 3),  # tlbsync
        ("0fb9c1", 3),  # ud1 %ecx,%eax
        ("0fb90425" + "00000000", 8),  # absolute address
        ("0fb98424" + "00000000", 8),
        ("0fb94424" + "10", 5),
        ("0fb905" + "00000000", 7),  # RIP-relative
        ("0fffc0", 3),  # ud0
        ("c4e27849c0", 5),  # tilerelease
        ("c4e379" + "22c001", 6),  # map 0f 3a: an immediate
        ("c5f8ae10", 4),
        ("62f17c4828c0", 6),
        ("0f38c8c1", 4),
        ("0f3accc101", 5),
        ("0f0b78656e", 5),
        ("06", 0),
        ("0f", 0),
        ("", 0),
        ("66", 0),
    ],
)
def test_length(text: str, length: int) -> None:
    """The length is found from prefixes, opcode map and ModRM."""
    code = bytes.fromhex(text)
    assert measure(code + (b"\x90" * 8 if length else b""))[0] == length


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("0fb9c1", InsnKind.UD),
        ("67480fb93a", InsnKind.UD),
        ("0fffc0", InsnKind.UD),
        ("f30f01ca", InsnKind.END),  # eretu
        ("f20f01ca", InsnKind.END),  # erets
        ("0f01e8", InsnKind.OTHER),
        ("c5ffb9c0", InsnKind.OTHER),  # VEX: its bytes are no opcode
        ("06", InsnKind.BAD),
    ],
)
def test_kind(text: str, kind: InsnKind) -> None:
    """UD0 and UD1 trap, FRED's returns do not come back, the rest goes on."""
    assert measure(bytes.fromhex(text))[1] is kind


def test_cut_off_at_the_end() -> None:
    """What does not lie there whole is no instruction."""
    assert measure(bytes.fromhex("0fb905" + "000000")) == (0, InsnKind.BAD)
