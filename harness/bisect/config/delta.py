"""Delta: how two configurations differ, and one with some of that of the other. Pure.

Only what the user wrote counts: what is applied goes through ``olddefconfig``, which
drops what has no dependencies, and adds what is selected.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from msgspec import Struct

from harness.kconfig import Setting

_TRISTATE = ("n", "m", "y")


class Delta(Struct, frozen=True):
    """One symbol with two values; None where the configuration does not have it.

    A symbol that is not there is not ``n``: kconfig asks for the one and gives it its
    default, and keeps the other.
    """

    symbol: str
    good: str | None
    bad: str | None

    @property
    def reversed(self) -> Delta:
        """The way back."""
        return Delta(self.symbol, self.bad, self.good)

    def __str__(self) -> str:
        """Return the line that applies it, and what it was."""
        was = "absent" if self.good is None else self.good
        return f"{_line(self.symbol, self.bad, self.good)} (was {was})"

    @property
    def line(self) -> str:
        """The line of a fragment that asks for it."""
        return _line(self.symbol, self.bad, self.good)


def deltas(good: Mapping[str, str], bad: Mapping[str, str]) -> tuple[Delta, ...]:
    """Return all that differs, in the order in which it is to be applied.

    First what can make no difference alone, symbols that only come to be off; the rest
    stand as in the .config, where most stand behind what they depend on.
    """
    found = [
        Delta(symbol, good.get(symbol), bad.get(symbol))
        for symbol in dict.fromkeys([*bad, *good])
        if good.get(symbol) != bad.get(symbol)
    ]
    return tuple(sorted(found, key=lambda d: (d.good, d.bad) != (None, "n")))


def applied(
    config: Mapping[str, str], of: Iterable[Delta], chosen: Collection[str]
) -> str:
    """Return ``config`` with the ``chosen`` symbols as the deltas have them.

    They stand last: of a choice kconfig takes the last ``y``.
    """
    changed = dict(config)
    for delta in of:
        if delta.symbol not in chosen:
            continue
        changed.pop(delta.symbol, None)
        value = _value(delta.bad, delta.good)
        if value is not None:
            changed[delta.symbol] = value
    return "".join(f"{Setting(symbol, value)}\n" for symbol, value in changed.items())


def _value(bad: str | None, good: str | None) -> str | None:
    """Return what to ask for; None is to ask for nothing, and take the default."""
    return "n" if bad is None and good in _TRISTATE else bad


def _line(symbol: str, bad: str | None, good: str | None) -> str:
    value = _value(bad, good)
    return (
        f"# CONFIG_{symbol} is absent" if value is None else str(Setting(symbol, value))
    )
