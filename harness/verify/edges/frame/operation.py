"""Operation: one instruction reduced to what it does to a frame.

Thousands of instructions are equal, so each distinct encoding is parsed once.
"""

from __future__ import annotations

import enum
import functools

from msgspec import Struct

from harness.text.insn import InsnKind
from harness.text.operand import SP, Encoding, parse_encoding
from harness.text.writes import writes

ALL = (1 << 16) - 1  # registers
VOLATILE = sum(1 << register for register in (0, 1, 2, 6, 7, 8, 9, 10, 11))
NOWHERE = -1


class Form(enum.IntEnum):
    """What is done, in order of the operation's fields."""

    QUIET = 0  # registers are overwritten, nothing else
    WIPE = 1  # and so is memory
    PUSH = 2
    PUSH_MEMORY = 3
    PUSH_OTHER = 4
    POP = 5
    POP_OTHER = 6
    MOVE = 7  # reg := base
    LOAD = 8  # reg := [base + k]
    STORE = 9  # [base + k] := reg
    LEA = 10  # reg := base + k
    SWAP = 11  # reg <-> base
    SWAP_MEMORY = 12  # reg <-> [base + k]
    LEAVE = 13
    ENTER = 14  # with a frame of k bytes
    CALL = 15
    FLOW = 16  # control may go elsewhere


class Operation(Struct, frozen=True):
    """Attributes:
    form: what is done.
    lost: mask of the registers that lose their values, before the form's own.
    reg: the register operand.
    base: the other register, or that of the address; NOWHERE if the address is
        not told by one register.
    k: the address's displacement, or what is added.
    size: bytes of memory that are overwritten.
    """

    form: Form
    lost: int
    reg: int = NOWHERE
    base: int = NOWHERE
    k: int = 0
    size: int = 0

    @property
    def touched(self) -> int:
        """Mask of the registers that a claim must not count from to hold behind it.

        What may change the stack touches all.
        """
        if self.form in (Form.QUIET, Form.LOAD, Form.MOVE, Form.LEA, Form.FLOW):
            return self.lost | self.written
        return ALL

    @property
    def builds(self) -> bool:
        """Whether it moves %rsp or writes a word to the stack."""
        moves = bool((self.lost | self.written) & 1 << SP)
        return moves or Form.PUSH <= self.form <= Form.POP_OTHER or self.form in _STORES

    @property
    def written(self) -> int:
        """Mask of the registers that the form itself gives a new value."""
        if self.form in _GIVES:
            return 1 << self.reg
        return 1 << self.reg | 1 << self.base if self.form is Form.SWAP else 0


_GIVES = (Form.POP, Form.MOVE, Form.LOAD, Form.LEA, Form.SWAP_MEMORY)
_STORES = (Form.STORE, Form.SWAP_MEMORY, Form.WIPE, Form.LEAVE, Form.ENTER)
_NOTHING = Operation(Form.QUIET, 0)
_CALL = Operation(Form.CALL, VOLATILE)


@functools.lru_cache(maxsize=1 << 19)
def operation(kind: int, code: bytes) -> Operation:
    """Return what an instruction of ``kind`` (InsnKind) and ``code`` does."""
    match kind:
        case InsnKind.OTHER | InsnKind.STACK | InsnKind.FRAME:
            return _other(code)
        case InsnKind.PUSH | InsnKind.PUSHF:
            return _push(kind, parse_encoding(code))
        case InsnKind.POP | InsnKind.POPF:
            return _pop(kind, parse_encoding(code))
        case InsnKind.LEAVE:
            return Operation(Form.LEAVE, 0)
        case InsnKind.CALL | InsnKind.CALL_INDIRECT:
            return _CALL
        case InsnKind.NOP | InsnKind.ENDBR:
            return _NOTHING
        case _:
            return _FLOW


_FLOW = Operation(Form.FLOW, 0)


def _address(encoding: Encoding) -> int:
    """Return the register that tells the address, NOWHERE if none does."""
    if encoding.mod == 3 or encoding.indexed or encoding.elsewhere:
        return NOWHERE
    return encoding.base


def _push(kind: int, encoding: Encoding) -> Operation:
    if encoding.narrow:
        return Operation(Form.QUIET, 1 << SP)
    if kind == InsnKind.PUSHF:
        return Operation(Form.PUSH_OTHER, 0)
    if encoding.opcode & 0xF8 == 0x50:
        register = encoding.opcode & 7 | (encoding.rex & 1) << 3
        return Operation(Form.PUSH, 0, register)
    if encoding.opcode == 0xFF and encoding.mod != 3:
        at = _address(encoding)
        return Operation(Form.PUSH_MEMORY, 0, base=at, k=encoding.displacement)
    if encoding.opcode == 0xFF:
        return Operation(Form.PUSH, 0, encoding.base)
    return Operation(Form.PUSH_OTHER, 0)


def _pop(kind: int, encoding: Encoding) -> Operation:
    if encoding.narrow:
        return Operation(Form.QUIET, 1 << SP)
    if kind == InsnKind.POP and encoding.opcode & 0xF8 == 0x58:
        register = encoding.opcode & 7 | (encoding.rex & 1) << 3
        return Operation(Form.POP, 0, register)
    if kind == InsnKind.POP and encoding.opcode == 0x8F:
        if encoding.mod == 3:
            return Operation(Form.POP, 0, encoding.base)
        at = _address(encoding)
        return Operation(Form.POP_OTHER, 0, base=at, k=encoding.displacement, size=8)
    return Operation(Form.POP_OTHER, 0)


def _other(code: bytes) -> Operation:
    encoding = parse_encoding(code)
    if encoding.wide and (special := _word(code, encoding)) is not None:
        return special
    if encoding.opcode == 0xC8:
        return Operation(Form.ENTER, 0, k=int.from_bytes(code[1:3], "little"))
    written = writes(code)
    lost = written.registers
    at = _address(encoding)
    if not written.memory or at == NOWHERE:
        return Operation(Form.QUIET, lost)
    return Operation(
        Form.WIPE, lost, base=at, k=encoding.displacement, size=written.memory
    )


def _word(code: bytes, encoding: Encoding) -> Operation | None:
    """Return what moves or adds whole words, None if ``code`` does neither."""
    opcode, memory = encoding.opcode, encoding.mod != 3
    reg, base, k = encoding.reg, encoding.base, encoding.displacement
    if opcode in (0x81, 0x83) and not memory and reg & 7 in (0, 5):
        size = 1 if opcode == 0x83 else 4
        at = encoding.immediate
        value = int.from_bytes(code[at : at + size], "little", signed=True)
        value = -value if reg & 7 == 5 else value
        return Operation(Form.LEA, 0, base, base, value)
    if opcode == 0x8D:
        at = _address(encoding)
        if at == NOWHERE:
            return None
        return Operation(Form.LEA, 0, reg, at, k)
    form = _FORMS.get((opcode, memory))
    if form is None:
        return None
    if memory:
        at = _address(encoding)
        return None if at == NOWHERE else Operation(form, 0, reg, at, k, 8)
    if opcode == 0x8B:
        return Operation(form, 0, reg, base)
    return Operation(form, 0, base, reg)


_FORMS = {
    (0x89, True): Form.STORE,
    (0x89, False): Form.MOVE,
    (0x8B, True): Form.LOAD,
    (0x8B, False): Form.MOVE,
    (0x87, True): Form.SWAP_MEMORY,
    (0x87, False): Form.SWAP,
}
