"""Length: how long the instructions are that a decoder does not know.

Only what kernels contain: SERIALIZE, LKGS, WRMSRNS, RMPADJUST and their like in the
0f 00 and 0f 01 groups, UD0 and UD1 with their ModRM byte, newer VEX and EVEX codes.
Source: Intel SDM volume 2, chapter 2 and appendix A.
"""

from __future__ import annotations

from harness.text.insn import InsnKind

LONGEST = 15  # bytes of an x86 instruction
XEN_PREFIX = b"\x0f\x0bxen"  # XEN_EMULATE_PREFIX: the next instruction is trapped
_LEGACY = frozenset(
    b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3"  # segments, sizes, lock, rep
)
_HINTS = frozenset(b"\x0d\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f")  # NOPs that may mean more
_MODRM_OPCODES = _HINTS | frozenset(b"\x00\x01\xb9\xff")
_UD = (b"\x0f\xb9", b"\x0f\xff")
_RETURN = b"\x0f\x01\xca"  # with f2 ERETS, with f3 ERETU


def measure(code: bytes) -> tuple[int, InsnKind]:
    """Return length and kind of the instruction that ``code`` begins with.

    The length is 0, and the kind BAD, if it is none that we know.
    """
    if code.startswith(XEN_PREFIX):
        return len(XEN_PREFIX), InsnKind.OTHER
    prefixes, at = _prefixes(code)
    length = _length(code, at)
    if not length or length > min(len(code), LONGEST):
        return 0, InsnKind.BAD
    if code.startswith(_UD, at):
        return length, InsnKind.UD
    if code.startswith(_RETURN, at) and not prefixes.isdisjoint(b"\xf2\xf3"):
        return length, InsnKind.END
    if code[at] == 0x0F and code[at + 1] in _HINTS:
        return length, InsnKind.NOP
    return length, InsnKind.OTHER


def _prefixes(code: bytes) -> tuple[frozenset[int], int]:
    """Return the legacy prefixes, and the offset behind them and REX."""
    at = 0
    while at < len(code) and code[at] in _LEGACY:
        at += 1
    rex = at < len(code) and 0x40 <= code[at] <= 0x4F
    return frozenset(code[:at]), at + rex


def _length(code: bytes, at: int) -> int:
    """Return the length of ``code``, whose opcode is at ``at``; 0 if unknown."""
    opcode = code[at : at + 1]
    if opcode == b"\x0f":
        return _two_byte(code, at + 1)
    if opcode == b"\xc5":
        return _with_modrm(code, at + 3, immediate=0)
    if opcode == b"\xc4":
        return _mapped(code, at + 1, at + 4)
    if opcode == b"\x62":
        return _mapped(code, at + 1, at + 5)
    return 0


def _two_byte(code: bytes, at: int) -> int:
    if at >= len(code):
        return 0
    if code[at] in _MODRM_OPCODES:
        return _with_modrm(code, at + 1, immediate=0)
    if code[at] == 0x38:
        return _with_modrm(code, at + 2, immediate=0)
    if code[at] == 0x3A:
        return _with_modrm(code, at + 2, immediate=1)
    return 0


def _mapped(code: bytes, map_at: int, modrm_at: int) -> int:
    if map_at >= len(code):
        return 0
    has_immediate = code[map_at] & 7 == 3  # opcode map 0f 3a
    return _with_modrm(code, modrm_at, immediate=int(has_immediate))


def _with_modrm(code: bytes, at: int, *, immediate: int) -> int:
    if at >= len(code):
        return 0
    mod, rm = code[at] >> 6, code[at] & 7
    length = at + 1
    if mod != 3 and rm == 4:
        if length >= len(code):
            return 0
        base = code[length] & 7
        length += 1 + (4 if mod == 0 and base == 5 else 0)
    elif mod == 0 and rm == 5:
        length += 4
    length += {1: 1, 2: 4}.get(mod, 0)
    return length + immediate
