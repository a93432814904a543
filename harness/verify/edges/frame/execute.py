"""Execute: one operation done to a frame."""

from __future__ import annotations

from collections.abc import Callable

from harness.text.operand import BP, SP
from harness.verify.edges.frame.frame import WORD, Frame
from harness.verify.edges.frame.operation import NOWHERE, Form, Operation
from harness.verify.edges.frame.value import RETURN


def execute(frame: Frame, operation: Operation, address: int) -> None:
    """Change ``frame`` as ``operation``, which lies at ``address``, does.

    A call returns: its callee gave everything back but the volatile registers.
    """
    frame.live &= ~operation.lost
    if operation.form:
        _ACTIONS[operation.form](frame, operation, address)


def _place(frame: Frame, operation: Operation) -> int | None:
    """Return the address of the memory operand."""
    if operation.base == NOWHERE:
        return None
    base = frame.get(operation.base)
    return None if base is None else base + operation.k


def _wipe(frame: Frame, operation: Operation, address: int) -> None:
    if (place := _place(frame, operation)) is not None:
        frame.wipe(place, operation.size)


def push(frame: Frame, value: int | None, address: int) -> None:
    """Push one word at the instruction at ``address``."""
    sp = frame.name(SP, address) - WORD
    frame.registers[SP] = sp
    frame.store(sp, value)


def _push(frame: Frame, operation: Operation, address: int) -> None:
    if operation.reg == SP:
        frame.name(SP, address)
    push(frame, frame.get(operation.reg), address)


def _push_memory(frame: Frame, operation: Operation, address: int) -> None:
    place = _place(frame, operation)
    push(frame, None if place is None else frame.slots.get(place), address)


def _push_other(frame: Frame, operation: Operation, address: int) -> None:
    push(frame, None, address)


def _pop(frame: Frame, operation: Operation, address: int) -> None:
    sp = frame.name(SP, address)
    frame.registers[SP] = sp + WORD
    frame.set(operation.reg, frame.slots.get(sp))


def _pop_other(frame: Frame, operation: Operation, address: int) -> None:
    frame.registers[SP] = frame.name(SP, address) + WORD
    _wipe(frame, operation, address)


def _move(frame: Frame, operation: Operation, address: int) -> None:
    if SP in (operation.reg, operation.base):
        frame.name(operation.base, address)
    frame.set(operation.reg, frame.get(operation.base))


def _load(frame: Frame, operation: Operation, address: int) -> None:
    place = _place(frame, operation)
    frame.set(operation.reg, None if place is None else frame.slots.get(place))


def _store(frame: Frame, operation: Operation, address: int) -> None:
    if operation.reg == SP:  # on top of another stack, perhaps
        frame.name(SP, address)
        if not frame.live >> operation.base & 1:
            frame.name(operation.base, -address)
    place = _place(frame, operation)
    if place is None:
        return
    value = frame.get(operation.reg)
    if frame.slots.get(place) == RETURN and (value is None or place == frame.get(SP)):
        return  # it is replaced by another: something computed, or on top of the stack
    frame.store(place, value)


def _lea(frame: Frame, operation: Operation, address: int) -> None:
    frame.set(operation.reg, _place(frame, operation))


def _swap(frame: Frame, operation: Operation, address: int) -> None:
    first, second = frame.get(operation.reg), frame.get(operation.base)
    frame.set(operation.reg, second)
    frame.set(operation.base, first)


def _swap_memory(frame: Frame, operation: Operation, address: int) -> None:
    place, value = _place(frame, operation), frame.get(operation.reg)
    _load(frame, operation, address)
    if place is not None:
        frame.store(place, value)


def _leave(frame: Frame, operation: Operation, address: int) -> None:
    base = frame.name(BP, address)
    frame.set(SP, base + WORD)
    frame.set(BP, frame.slots.get(base))


def _enter(frame: Frame, operation: Operation, address: int) -> None:
    push(frame, frame.get(BP), address)
    frame.set(BP, frame.get(SP))
    frame.registers[SP] -= operation.k


def _call(frame: Frame, operation: Operation, address: int) -> None:
    frame.release()


_ACTIONS: dict[Form, Callable[[Frame, Operation, int], None]] = {
    Form.WIPE: _wipe,
    Form.PUSH: _push,
    Form.PUSH_MEMORY: _push_memory,
    Form.PUSH_OTHER: _push_other,
    Form.POP: _pop,
    Form.POP_OTHER: _pop_other,
    Form.MOVE: _move,
    Form.LOAD: _load,
    Form.STORE: _store,
    Form.LEA: _lea,
    Form.SWAP: _swap,
    Form.SWAP_MEMORY: _swap_memory,
    Form.LEAVE: _leave,
    Form.ENTER: _enter,
    Form.CALL: _call,
}
