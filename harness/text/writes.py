"""Writes: which registers and how much memory one instruction overwrites.

Only the sixteen general registers count. A stack effect does not (a push's store,
what a callee overwrites), nor writes of %rsp and %rbp that the opcode implies.
What is not in the tables is taken to overwrite every register but those two: the
decoder tells all their writers apart (InsnKind.STACK, FRAME).

Source: Intel SDM volume 2, appendix A (opcode map).
"""

from __future__ import annotations

from msgspec import Struct

from harness.text.operand import BP, SP, Encoding, parse_encoding

AX, CX, DX, BX, SI, DI = 0, 1, 2, 3, 6, 7
EVERYTHING = 0xFFFF & ~(1 << SP | 1 << BP)


class Writes(Struct, frozen=True):
    """What is overwritten.

    Attributes:
        registers: bit r is register r as encodings number it.
        memory: bytes from the address of the r/m operand on; 0 if none.
    """

    registers: int
    memory: int = 0


def writes(code: bytes) -> Writes:
    """Return what ``code``, one instruction, overwrites."""
    if (vector := _vector(code)) is not None:
        return vector
    encoding = parse_encoding(code)
    opcode, number = encoding.opcode, encoding.reg & 7
    what = _GROUPS.get((opcode, number))
    if what is None:
        what = _OPCODES.get(opcode, "*e")
    if opcode == 0x0F01 and encoding.mod == 3:
        what = _SYSTEM.get(0xC0 | number << 3 | encoding.base & 7, "*")
    elif opcode == 0x0F7E and encoding.repeat:
        what = ""  # movq between vector registers
    return _resolve(encoding, what)


def _resolve(encoding: Encoding, what: str) -> Writes:
    """Spell out the letters of a table, see :data:`_OPCODES`."""
    registers = memory = 0
    for letter in what:
        if letter in "gh":
            registers |= 1 << _number(encoding, encoding.reg, byte=letter == "h")
        elif letter in "op":
            last = encoding.opcode & 7 | (encoding.rex & 1) << 3
            registers |= 1 << _number(encoding, last, byte=letter == "p")
        elif letter in "eb" and encoding.mod == 3:
            registers |= 1 << _number(encoding, encoding.base, byte=letter == "b")
        elif letter in "eb":
            memory = 1 if letter == "b" else _operand_size(encoding)
        elif letter in _MEMORY:
            memory = _MEMORY[letter] if encoding.mod != 3 else 0
        else:
            registers |= _IMPLIED[letter]
    if encoding.opcode == 0x0F11 and memory:
        memory = {0xF3: 4, 0xF2: 8}.get(encoding.repeat, 16)
    return Writes(registers, memory)


def _number(encoding: Encoding, register: int, *, byte: bool) -> int:
    """Return ``register``; without REX bytes 4 to 7 are %ah, %ch, %dh and %bh."""
    return register & 3 if byte and not encoding.rex and register > 3 else register


def _operand_size(encoding: Encoding) -> int:
    return 8 if encoding.wide else 2 if encoding.narrow else 4


_IMPLIED = {
    "a": 1 << AX,
    "c": 1 << CX,
    "d": 1 << DX,
    "x": 1 << BX,
    "s": 1 << SI,
    "i": 1 << DI,
    "l": 1 << 11,
    "H": 1 << AX | 1 << CX | 1 << DX | 1 << SI | 1 << DI | 1 << 8 | 1 << 10 | 1 << 11,
    "*": EVERYTHING,
}
_MEMORY = {"2": 2, "4": 4, "8": 8, "v": 16, "t": 10, "f": 108, "S": 512, "A": 4096}


def _table(rows: dict[str, list[int]]) -> dict[int, str]:
    return {opcode: what for what, opcodes in rows.items() for opcode in opcodes}


_ALU = range(0, 0x38, 8)  # add or adc sbb and sub xor; then cmp

# What an opcode writes: g the register operand, e the r/m operand, o the register
# that the opcode holds; h, b and p the same of one byte; 2 4 8 t v f S A memory only;
# * everything; another letter is a register that the opcode implies.
_OPCODES = _table(
    {
        "": [
            *range(0x38, 0x3E),
            *(0x84, 0x85, 0x8E, 0x90, 0x9B, 0x9C, 0x9D, 0x9E, 0xA8, 0xA9),
            *(0xC2, 0xC3, 0xCA, 0xCB, 0xCC, 0xCD, 0xCF, 0xD8, 0xDA, 0xDC, 0xDE),
            *(0xE6, 0xE7, 0xEE, 0xEF, 0xE3, 0xE8, 0xE9, 0xEB),
            *(0xF1, 0xF4, 0xF5, *range(0xF8, 0xFE)),
            *(0xC9, 0x68, 0x6A, *range(0x50, 0x60), *range(0x70, 0x80)),
            *(0x0F06, 0x0F07, 0x0F08, 0x0F09, 0x0F0B, 0x0F0D, *range(0x0F18, 0x0F20)),
            *(0x0F22, 0x0F23, 0x0F30, 0x0F34, 0x0F35, 0x0F77, *range(0x0F80, 0x0F90)),
            *(0x0FA0, 0x0FA1, 0x0FA3, 0x0FA8, 0x0FA9, 0x0FB9, 0x0FFF),
            # SSE and MMX, but for what is below
            *(*range(0x0F10, 0x0F18), 0x0F28, 0x0F2A, 0x0F2E, 0x0F2F),
            *(*range(0x0F51, 0x0F7E), 0x0FC2, 0x0FC4, 0x0FC6, *range(0x0FD0, 0x0FFF)),
            *(*range(0x0F3800, 0x0F38E0), *range(0x0F3A00, 0x0F3AE0)),
        ],
        "g": [
            *(base + 3 for base in _ALU),
            *(0x63, 0x69, 0x6B, 0x8B, 0x8D),
            *(0x0F02, 0x0F03, 0x0F2C, 0x0F2D, *range(0x0F40, 0x0F51)),
            *(0x0FAF, 0x0FB2, *range(0x0FB4, 0x0FB9), *range(0x0FBC, 0x0FC0)),
            *(0x0FC5, 0x0FD7, 0x0F38F0, 0x0F38F1, 0x0F38F6),
        ],
        "e": [
            *(base + 1 for base in _ALU),
            *(0x81, 0x83, 0x89, 0x8C, 0xC1, 0xC7, 0xD1, 0xD3, 0x0F20, 0x0F21),
            *(0x0FA4, 0x0FA5, 0x0FAB, 0x0FAC, 0x0FAD, 0x0FB3, 0x0FBA, 0x0FBB, 0x0FC3),
            *(0x0F7E, 0x0F3A14, 0x0F3A15, 0x0F3A16, 0x0F3A17),
        ],
        "b": [
            *(base for base in _ALU),
            *(0x80, 0x88, 0xC0, 0xC6, 0xD0, 0xD2, *range(0x0F90, 0x0FA0)),
        ],
        "a": [
            *(base + n for base in _ALU for n in (4, 5)),
            *(0x98, 0x9F, 0xA0, 0xA1, 0xD7, 0xE4, 0xE5, 0xEC, 0xED),
        ],
        "8": [0x0F13, 0x0F17, 0x0FD6],
        "v": [0x0F11, 0x0F29, 0x0F2B, 0x0F7F, 0x0FE7],
        "ge": [0x87, 0x0FC1],
        "h": [0x8A, *(base + 2 for base in _ALU)],
        "hb": [0x86, 0x0FC0],
        "o": [*range(0xB8, 0xC0), *range(0x0FC8, 0x0FD0)],
        "p": list(range(0xB0, 0xB8)),
        "ao": list(range(0x91, 0x98)),
        "ae": [0x0FB1],
        "ab": [0x0FB0],
        "d": [0x99],
        "c": [0xE0, 0xE1, 0xE2],
        "ad": [0x0F31, 0x0F32, 0x0F33],
        "axcd": [0x0FA2],
        "cl": [0x0F05],
        "csi": [0xA4, 0xA5, 0xA6, 0xA7],
        "ci": [0x6C, 0x6D, 0xAA, 0xAB, 0xAE, 0xAF],
        "cs": [0x6E, 0x6F],
        "acs": [0xAC, 0xAD],
    }
)

# The same where ModRM's reg field continues the opcode.
_GROUPS = {
    **{(opcode, 7): "" for opcode in (0x80, 0x81, 0x83)},  # cmp
    **{(opcode, n): "" for opcode in (0xF6, 0xF7) for n in (0, 1)},  # test
    **{(0xF6, n): "b" for n in (2, 3)},
    **{(0xF7, n): "e" for n in (2, 3)},
    **{(opcode, n): "ad" for opcode in (0xF6, 0xF7) for n in (4, 5, 6, 7)},
    **{(0xFE, n): "b" for n in (0, 1)},
    **{(0xFF, n): "e" if n < 2 else "" for n in range(8)},
    **{(0x8F, n): "" for n in range(8)},
    **{(0x0F00, n): "e" if n < 2 else "" for n in range(8)},
    **{
        (0x0F01, n): what for n, what in enumerate(["t", "t", "", "", "e", "8", "", ""])
    },
    (0x0FBA, 4): "",  # bt
    **{(0x0FC7, n): "A" for n in (3, 4, 5)},
    **{(0x0FC7, n): "e" for n in (6, 7)},  # rdrand, rdseed
    (0x0FC7, 1): "adv",  # cmpxchg16b
    **{
        (0x0FAE, n): what for n, what in enumerate(["S", "", "", "8", "A", "", "A", ""])
    },
    **{(0xD9, n): what for n, what in enumerate(["", "", "4", "4", "", "", "f", "2"])},
    **{(0xDB, n): what for n, what in enumerate(["", "4", "4", "4", "", "", "", "t"])},
    **{(0xDD, n): what for n, what in enumerate(["", "8", "8", "8", "", "", "f", "2"])},
    **{
        (0xDF, n): what for n, what in enumerate(["", "2", "2", "2", "a", "", "t", "8"])
    },
}

# 0f 01 in its register form; vmrun and its like, which load a guest, are not here.
_SYSTEM = {
    **dict.fromkeys((0xC8, 0xC9, 0xCA, 0xCB, 0xD1, 0xE8, 0xEF, 0xF8, 0xFC), ""),
    **dict.fromkeys((0xD0, 0xEE), "ad"),  # xgetbv, rdpkru
    0xF9: "acd",  # rdtscp
    **dict.fromkeys((0xC1, 0xD9), "H"),  # vmcall, vmmcall: arguments and results
}


def _vector(code: bytes) -> Writes | None:
    """Return what a VEX or EVEX instruction overwrites, None if it is none."""
    at = 0
    while at < len(code) and code[at] in b"\x2e\x3e\x26\x36\x64\x65\x67":
        at += 1
    size = {0xC5: 2, 0xC4: 3, 0x62: 4}.get(code[at]) if at < len(code) else None
    if size is None or at + size >= len(code):
        return None
    if at + size + 1 == len(code):
        return Writes(0)  # vzeroupper and vzeroall alone have no ModRM
    first = code[at + 1]
    last = code[at + 2] if size > 2 else first
    page = 1 if size == 2 else first & (31 if size == 3 else 7)
    length = code[at + 3] >> 5 & 3 if size == 4 else last >> 2 & 1
    opcode, modrm = code[at + size], code[at + size + 1]
    reg = modrm >> 3 & 7 | (~first >> 7 & 1) << 3
    base = modrm & 7 | (0 if size == 2 else (~first >> 5 & 1) << 3)
    registers = memory = 0
    key = page << 8 | opcode
    if key in _VECTOR_REG:
        registers |= 1 << reg
    if key in _VECTOR_VVVV:
        registers |= 1 << (~last >> 3 & 15)
    if modrm >> 6 == 3:
        if key in _VECTOR_RM:
            registers |= 1 << base
    elif key in _VECTOR_STORES:
        memory = 8 if key in _VECTOR_EIGHT else 16 << length
        if key == 0x111:
            memory = {2: 4, 3: 8}.get(last & 3, memory)
    return Writes(registers, memory)


_VECTOR_REG = {0x12C, 0x12D, 0x150, 0x1D7, 0x1C5, 0x193, 0x178, 0x179}
_VECTOR_REG |= {0x2F2, 0x2F5, 0x2F6, 0x2F7, 0x3F0}
_VECTOR_VVVV = {0x2F3, 0x2F6}
_VECTOR_RM = {0x17E, 0x314, 0x315, 0x316, 0x317}
_VECTOR_EIGHT = {0x113, 0x117, 0x1D6, 0x17E, 0x191, 0x1AE, 0x314, 0x315, 0x316, 0x317}
_VECTOR_STORES = _VECTOR_EIGHT | {0x111, 0x129, 0x12B, 0x17F, 0x1E7}
_VECTOR_STORES |= {0x22E, 0x22F, 0x28E, 0x263, 0x28A, 0x28B, 0x319, 0x31B, 0x339}
_VECTOR_STORES |= {0x33B, 0x31D, 0x2A0, 0x2A1, 0x2A2, 0x2A3}
_VECTOR_STORES |= {
    0x200 | n for base in (0x10, 0x20, 0x30) for n in range(base, base + 6)
}
