"""Catalog: a TOML file of named entries, some for the night only."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from harness.errors import FormatError, UserError


class Entry(Protocol):
    """What every entry has: a name, and whether it takes too long for the day."""

    @property
    def name(self) -> str:
        """The heading of its table."""

    @property
    def nightly(self) -> bool:
        """Whether it is left to the night."""


E = TypeVar("E", bound=Entry)


def read(path: Path, kind: type[E]) -> list[E]:
    """Read the entries of ``path``, each a ``kind``, in its order.

    Raises:
        FormatError: the file is not TOML of that shape.
    """
    try:
        data = tomllib.loads(path.read_text())
        named = {name: {"name": name, **entry} for name, entry in data.items()}
        return list(msgspec.convert(named, dict[str, kind]).values())  # type: ignore[valid-type]
    except (OSError, ValueError, TypeError) as exc:
        raise FormatError(f"{path} holds no {path.stem}: {exc}") from exc


def choose(entries: list[E], prefix: str, *, nightly: bool) -> list[E]:
    """Return those whose name begins with ``prefix``; of one name, only that.

    Raises:
        UserError: there is none.
    """
    found = [one for one in entries if one.name.startswith(prefix)]
    if not found:
        names = ", ".join(one.name for one in entries)
        raise UserError(f"nothing is called {prefix}", hint=f"there are {names}")
    exact = [one for one in found if one.name == prefix]
    return exact or [one for one in found if nightly or not one.nightly]
