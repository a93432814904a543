"""Config file: ``orc-harness.toml``, options that people do not want to repeat.

Searched from the working directory upwards; ``ORC_HARNESS_CONFIG`` names another, or
none if it is empty. The names are those of the options:

    tree = "linux"               # for every command that has the option
    toolchain = "trixie"

    [validate]                   # for one
    jobs = 4

The command line wins, then the environment. Nothing is imported but for a file that
is there.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping

from msgspec import Struct

from harness.errors import UserError

NAME = "orc-harness.toml"
VARIABLE = "ORC_HARNESS_CONFIG"


class ConfigFile(Struct, frozen=True):
    """What a file says.

    Attributes:
        path: where it is.
        shared: option -> value, for every command that has it.
        tables: command -> option -> value.
    """

    path: str
    shared: Mapping[str, object]
    tables: Mapping[str, Mapping[str, object]]

    def of(
        self, command: str, options: Collection[str], others: Collection[str]
    ) -> dict[str, object]:
        """Return option -> value for ``command``, which has ``options``.

        ``others`` are options that other commands have, too.

        Raises:
            UserError: a name is none of an option.
        """
        for name in self.shared:
            if name not in options and name not in others:
                raise self._unknown(name, "an option", {*options, *others})
        own = self.tables.get(command, {})
        for name in own:
            if name not in options:
                raise self._unknown(name, f"an option of {command}", options)
        common = {k: v for k, v in self.shared.items() if k in options}
        return {**common, **own}

    def require_commands(self, commands: Collection[str]) -> None:
        """Raise UserError if a table is that of no command."""
        for name in self.tables:
            if name not in commands:
                raise self._unknown(name, "a command", commands)

    def _unknown(self, name: str, kind: str, known: Iterable[str]) -> UserError:
        import difflib

        known = sorted(known)
        meant = difflib.get_close_matches(name, known, n=1)
        hint = f"{meant[0]} was meant?" if meant else f"there are {', '.join(known)}"
        return UserError(f"{self.path}: {name} is not {kind}", hint=hint)


def find(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the path of the file that counts here, or None."""
    named = environ.get(VARIABLE)
    if named is not None:
        return named or None
    directory = os.getcwd()  # noqa: PTH109 - pathlib is not free
    while True:
        path = os.path.join(directory, NAME)  # noqa: PTH118
        if os.path.isfile(path):  # noqa: PTH113
            return path
        above = os.path.dirname(directory)  # noqa: PTH120
        if above == directory:
            return None
        directory = above


def read(path: str) -> ConfigFile:
    """Read the file ``path``.

    Raises:
        UserError: it cannot be read, or is no TOML.
    """
    import tomllib

    try:
        with open(path, "rb") as file:  # noqa: PTH123
            found = tomllib.load(file)
    except OSError as exc:
        raise UserError(
            f"cannot read {path}: {exc.strerror}",
            hint=f"{VARIABLE}= in the environment does without",
        ) from exc
    except ValueError as exc:
        raise UserError(f"{path} is not TOML: {exc}") from exc
    tables = {name: value for name, value in found.items() if isinstance(value, dict)}
    shared = {name: value for name, value in found.items() if name not in tables}
    return ConfigFile(path, shared, tables)
