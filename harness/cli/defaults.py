"""Defaults: what the config file says, as click's defaults of one command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer
from typer.core import TyperOption

from harness import config_file
from harness.cli.saved import DEFAULT
from harness.errors import UserError

if TYPE_CHECKING:
    from typer.core import TyperCommand

# Of all commands: to load each for its options would take longer than most run.
_NAMES = """
    add affected again append artifacts bad baseline boots builds check class
    compare confidence config count cpu debug dry-run dwarf evidence executed
    expires feature finding format fragment good jobs kaslr kernels key known limit
    link matrix nightly no-cache no-feature nops objects of offline older-than
    oracle origin output package plan plants platform profile qemu rate reason
    rebuild-images replay report resume runtime scheduler seed shadow shadow-bp smp
    store target timeout tls-ca tls-cert tls-key to toolchain tree trend variant
    vmcore vmlinux xen xen-args zone
"""
OPTIONS = frozenset(_NAMES.split())
_PATHS = ("path", "file", "directory")
_FILES = ("config", "store")  # by what is in them more than a path, and so no such type


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
        if isinstance(parameter, TyperOption) and parameter.name != "help"
        for option in parameter.opts
        if option.startswith("--")
    }
    said = found.of(command.name or "", parameters, OPTIONS)
    root = Path(path).absolute().parent
    values = {}
    for name, value in said.items():
        parameter = parameters[name]
        many = bool(getattr(parameter, "multiple", False))
        flag = bool(getattr(parameter, "is_flag", False))
        if flag is not isinstance(value, bool) or isinstance(value, list) > many:
            wanted = "true or false" if flag else "a list" if many else "one value"
            raise UserError(f"{found.path}: {name} is {value!r}, {wanted} was expected")
        each = value if isinstance(value, list) else [value]
        if not flag:
            each = [_said(found.path, name, parameter, str(one)) for one in each]
        if parameter.type.name in _PATHS:
            each = [str(root / Path(str(one)).expanduser()) for one in each]
        else:
            each = [_located(name, one, root) for one in each]
        values[parameter.name or ""] = each if many else each[0]
    return values


def _said(path: str, name: str, option: TyperOption, text: str) -> str:
    """Return ``text``, which must be what the command line would take.

    Whether a file exists is known only when it is located.
    """
    if option.type.name not in _PATHS:
        try:
            option.type.convert(text, option, None)
        except typer.BadParameter as exc:
            raise UserError(f"{path}: {name}: {exc.message}") from exc
    return text


def _located(name: str, value: object, root: Path) -> object:
    """Return ``value``, below the file's directory if it names a file.

    A store may be a URL or a word, and a baseline the name of a run.
    """
    if not isinstance(value, str) or "://" in value or value == DEFAULT:
        return value
    path = root / Path(value).expanduser()
    return (
        str(path) if name in _FILES or (name == "baseline" and path.exists()) else value
    )
