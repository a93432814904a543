"""Defaults: what the config file says, as click's defaults of one command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args, get_origin

from harness import config_file
from harness.cli import options
from harness.errors import UserError

if TYPE_CHECKING:
    from typer.core import TyperCommand

_PATHS = ("path", "file", "directory")


def defaults(command: TyperCommand, commands: list[str]) -> dict[str, object]:
    """Return parameter -> value of ``command`` by the config file that counts here.

    Paths are relative to the file.

    Raises:
        UserError: the file cannot be read, or has a name or a value that is wrong.
    """
    path = config_file.find()
    if path is None:
        return {}
    found = config_file.read(path)
    found.require_commands(commands)
    parameters = {
        option.removeprefix("--"): parameter
        for parameter in command.params
        if parameter.param_type_name == "option" and parameter.name != "help"
        for option in parameter.opts
        if option.startswith("--")
    }
    said = found.of(command.name or "", parameters, _shared())
    root = Path(path).absolute().parent
    values = {}
    for name, value in said.items():
        parameter = parameters[name]
        many = bool(getattr(parameter, "multiple", False))
        flag = bool(getattr(parameter, "is_flag", False))
        if flag is not isinstance(value, bool) or isinstance(value, list) > many:
            wanted = "true or false" if flag else "a list" if many else "one value"
            raise UserError(f"{found.path}: {name} is {value!r}, {wanted} was expected")
        below = root if parameter.type.name in _PATHS else None
        values[parameter.name or ""] = _value(value, many, below)
    return values


def _value(value: object, many: bool, below: Path | None) -> object:
    """Return ``value`` as click takes it; paths are ``below`` the file's directory."""
    each = value if isinstance(value, list) else [value]
    if below is not None:
        each = [str(below / Path(str(one)).expanduser()) for one in each]
    return each if many else each[0]


def _shared() -> set[str]:
    """Return the options that several commands share."""
    names = {"offline"}
    for value in vars(options).values():
        if get_origin(value) is Annotated:
            option = get_args(value)[1]
            # in Annotated typer takes the first name for the default
            for name in (option.default, *(option.param_decls or ())):
                if isinstance(name, str) and name.startswith("--"):
                    names.add(name.removeprefix("--"))
    return names
