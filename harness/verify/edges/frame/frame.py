"""Frame: what is known of the registers and of the stack, at one instruction.

Two assumptions, objtool's too: a store through an unknown pointer does not hit the
slots that we know, and slots of different bases are different memory.
"""

from __future__ import annotations

import enum

from msgspec import Struct, field

from harness.text.operand import SP
from harness.verify.edges.frame.value import base_of, distance, fresh

WORD = 8
_HALF = 1 << 31


class Anchor(enum.IntEnum):
    """What lies at the base FRAME."""

    NOTHING = 0  # no claim has told of a frame yet
    CALL = 1  # the CFA: the return address is below it
    IRET = 2  # the five words that an interrupt or its likeness pushed


class Frame(Struct):
    """Registers and slots.

    Attributes:
        anchor: what the base FRAME is.
        registers: 16 values, by the number in encodings.
        live: bit r tells that the value of register r is known.
        slots: value of an address, a multiple of 8 from its base -> value there.
        switched: %rsp was loaded, registers come from another context.
    """

    anchor: Anchor
    registers: list[int] = field(default_factory=lambda: [0] * 16)
    live: int = 0
    slots: dict[int, int] = field(default_factory=dict)
    switched: bool = False

    def copy(self) -> Frame:
        """Return a frame of the same content that changes by itself."""
        registers, slots = self.registers[:], self.slots.copy()
        return Frame(self.anchor, registers, self.live, slots, self.switched)

    def get(self, register: int) -> int | None:
        """Return the value of ``register``."""
        return self.registers[register] if self.live >> register & 1 else None

    def set(self, register: int, value: int | None) -> None:
        """Change the value of ``register``."""
        if value is None:
            self.live &= ~(1 << register)
        else:
            self.registers[register] = value
            self.live |= 1 << register

    def name(self, register: int, address: int) -> int:
        """Return the value of ``register``; if unknown, make one up at ``address``."""
        if self.live >> register & 1:
            return self.registers[register]
        value = fresh(address)
        self._forget_base(base_of(value))
        self.set(register, value)
        return value

    def _forget_base(self, base: int) -> None:
        """What the last round of a loop made up here is something else now."""
        for register in range(16):
            if self.live >> register & 1 and base_of(self.registers[register]) == base:
                self.live &= ~(1 << register)
        for slot, value in list(self.slots.items()):
            if base in (base_of(slot), base_of(value)):
                del self.slots[slot]

    def store(self, address: int, value: int | None) -> None:
        """Write a word at ``address``."""
        if value is None or address & (WORD - 1):
            self.wipe(address, WORD)
        else:
            self.slots[address] = value

    def wipe(self, address: int, size: int) -> None:
        """Write ``size`` bytes at ``address`` that mean nothing to us."""
        if size == WORD and not address & (WORD - 1):
            self.slots.pop(address, None)
            return
        first, last = address - WORD, address + size
        for slot in [slot for slot in self.slots if first < slot < last]:
            del self.slots[slot]

    def release(self) -> None:
        """Forget what a callee may overwrite: all below %rsp, and local variables.

        A pointer to a local that lies in a local, such as an empty list's head, may
        have been handed out. What saves a register does not look like that.
        """
        sp = self.get(SP)
        for slot, value in list(self.slots.items()):
            below = sp is not None and sp - _HALF <= slot < sp
            if below or -_HALF <= value - slot < _HALF:
                del self.slots[slot]

    def moved(self, old: int, new: int) -> Frame:
        """Return the frame with each value of ``old``'s base counted from ``new``."""

        def move(value: int) -> int:
            return value if distance(value, old) is None else value - old + new

        return Frame(
            self.anchor,
            [move(value) for value in self.registers],
            self.live,
            {move(slot): move(value) for slot, value in self.slots.items()},
            self.switched,
        )

    def merge(self, other: Frame) -> bool:
        """Keep what ``other`` knows too; tell whether anything was lost."""
        live = self.live & other.live
        for register in range(16):
            differs = self.registers[register] != other.registers[register]
            if differs and live >> register & 1:
                live &= ~(1 << register)
        lost = [s for s, value in self.slots.items() if other.slots.get(s) != value]
        for slot in lost:
            del self.slots[slot]
        changed = live != self.live or bool(lost)
        self.live = live
        self.switched &= other.switched
        if self.anchor != other.anchor and self.anchor:
            self.anchor = Anchor.NOTHING
            changed = True
        return changed
