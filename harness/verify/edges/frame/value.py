"""Value: what a register or a stack slot holds, as a base that nobody knows plus k.

A value is one number, base * 2**32 + k, so that ``value + n`` is the value n bytes
further, and two values are equal when they are certainly the same. Bases are

    FRAME       where the frame is: the CFA, or the words that an interrupt pushed
    initial(r)  what register r held at the start
    RETURN      the return address
    INTERRUPT   the words that an interrupt pushed: INTERRUPT + k was at FRAME + k
    others      the address of the instruction that made up something new

None, where a value is expected, stands for unknown.
"""

from __future__ import annotations

_BITS = 32
_HALF = 1 << _BITS - 1
_MASK = (1 << _BITS) - 1

FRAME = 1 << _BITS
RETURN = 2 << _BITS
INTERRUPT = 3 << _BITS
_INITIAL = 16  # bases 16 to 31; addresses of code are above


def initial(register: int) -> int:
    """Return what ``register`` (as encodings number it) held at the start."""
    return (_INITIAL + register) << _BITS


def fresh(address: int) -> int:
    """Return a value that only the instruction at ``address`` has made."""
    return (_INITIAL + 16 + address) << _BITS


def base_of(value: int) -> int:
    """Return the number of the base of ``value``: values of one base compare."""
    return value + _HALF >> _BITS


def distance(value: int, base: int) -> int | None:
    """Return k of ``value == base + k``, None if their bases differ.

    ``base`` is a base itself: its own k is 0.
    """
    k = value - base
    return k if -_HALF <= k < _HALF else None


def initial_of(value: int) -> int | None:
    """Return the register whose initial value is ``value``, None if it is none's."""
    register = (value >> _BITS) - _INITIAL
    return register if 0 <= register < 16 and not value & _MASK else None


def meant(value: int) -> bool:
    """Whether ``value`` is the frame's, the caller's or a register's of the start."""
    return 0 <= base_of(value) < _INITIAL + 16
