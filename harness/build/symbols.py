"""Symbols: what a tree's Kconfig files define, and why a symbol is not set.

The text is read well enough to name the unmet dependency of a request that kconfig
dropped; kconfig itself stays the judge of what a .config may hold.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct, field

from harness.build.expression import parse
from harness.kconfig import Setting

SRCARCH = "x86"
_TYPES = ("bool", "tristate", "int", "hex", "string", "prompt")
_BLOCKS = ("menu", "choice", "if")
_WORD = re.compile(r"\s*([\w-]+)\b[ \t]*(.*)")
_PROMPT = re.compile(r"(\"(?:[^\"\\]|\\.)*\"|'[^']*')\s*(?:if\s+(.*))?")


class Definition(Struct):
    """One ``config`` entry, or a block around entries.

    Attributes:
        where: ``arch/x86/Kconfig:12``.
        conditions: what its own ``depends on`` and the blocks around it ask for.
        prompt: condition under which a user may set it; None if nobody may.
    """

    symbol: str
    where: str
    conditions: list[str] = field(default_factory=list)
    prompt: str | None = None


class Symbols(Struct):
    """Every symbol of a tree."""

    definitions: dict[str, list[Definition]] = field(default_factory=dict)
    selects: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    @property
    def names(self) -> frozenset[str]:
        """All symbols that the tree defines."""
        return frozenset(self.definitions)

    def why(self, setting: Setting, config: Mapping[str, str]) -> str:
        """Say why ``setting`` does not hold in ``config``, in a few words."""
        symbol = setting.symbol
        if symbol not in self.definitions:
            return "no such symbol in this tree"
        actual = config.get(symbol, "n")
        if setting.value == "n":
            selectors = self._active_selectors(symbol, config)
            return f"it is {actual}, selected by {_listed(selectors)}"
        if selected := self._only_selected(symbol):
            return selected
        unmet = min(
            (self._unmet(definition, config) for definition in self._settable(symbol)),
            key=len,
        )
        if unmet:
            return f"unmet dependency: {', '.join(unmet)}"
        if actual == "m":
            return "it is m: something that it depends on is a module"
        return f"it is {actual} after olddefconfig (a choice or its range decides)"

    def _settable(self, symbol: str) -> list[Definition]:
        return [d for d in self.definitions[symbol] if d.prompt is not None]

    def _only_selected(self, symbol: str) -> str:
        if self._settable(symbol):
            return ""
        selectors = sorted({name for name, _ in self.selects.get(symbol, [])})
        if not selectors:
            return "nobody can set it: it has no prompt"
        return f"nobody can set it: it is selected only by {_listed(selectors)}"

    def _active_selectors(self, symbol: str, config: Mapping[str, str]) -> list[str]:
        return sorted(
            name
            for name, condition in self.selects.get(symbol, [])
            if config.get(name, "n") != "n" and parse(condition or "y").value(config)
        )

    def _unmet(self, definition: Definition, config: Mapping[str, str]) -> list[str]:
        texts = [*definition.conditions, definition.prompt or "y"]
        unmet = [line for text in texts for line in parse(text).unmet(config)]
        return list(dict.fromkeys(unmet))


def _listed(names: list[str]) -> str:
    if not names:
        return "a default"
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


def read_symbols(tree: Path) -> Symbols:
    """Read the Kconfig files of ``tree`` for x86, from its top ``Kconfig`` on."""
    reader = _Reader(tree)
    reader.read("Kconfig")
    return reader.symbols


class _Reader:
    def __init__(self, tree: Path) -> None:
        self.symbols = Symbols()
        self._tree = tree
        self._blocks: list[Definition] = []
        self._current = Definition("", "")

    def read(self, name: str) -> None:
        """Read the file ``name`` and those that it sources."""
        try:
            text = (self._tree / name).read_text(errors="replace")
        except OSError:
            return  # sourced only where a macro that we do not know says so
        lines = text.replace("\\\n", " ").expandtabs().splitlines()
        number = 0
        while number < len(lines):
            match = _WORD.match(lines[number])
            number += 1
            if match is None:
                continue
            if match[1] == "help":
                number = _after_help(lines, number)
            else:
                self._line(match[1], _code(match[2]), f"{name}:{number}")

    def _line(self, word: str, rest: str, where: str) -> None:
        if word in ("config", "menuconfig"):
            self._define(rest, where)
        elif word in _BLOCKS:
            self._enter(word, rest, where)
        elif word in ("endmenu", "endchoice", "endif") and self._blocks:
            self._blocks.pop()
            self._current = Definition("", where)
        elif word == "comment":
            self._current = Definition("", where)
        elif word == "source":
            self._current = Definition("", where)
            self.read(rest.strip("\"'").replace("$(SRCARCH)", SRCARCH))
        else:
            self._property(word, rest)

    def _define(self, symbol: str, where: str) -> None:
        inherited = [text for block in self._blocks for text in block.conditions]
        self._current = Definition(symbol, where, inherited)
        self.symbols.definitions.setdefault(symbol, []).append(self._current)

    def _enter(self, word: str, rest: str, where: str) -> None:
        conditions = [rest] if word == "if" else []
        self._current = Definition("", where, conditions)
        self._blocks.append(self._current)

    def _property(self, word: str, rest: str) -> None:
        if word == "depends":
            self._current.conditions.append(rest.removeprefix("on").strip())
        elif word in _TYPES and (match := _PROMPT.match(rest)):
            self._current.prompt = match[2] or "y"
        elif word in ("select", "imply") and self._current.symbol:
            target, _, condition = rest.partition(" if ")
            if word == "select":
                selectors = self.symbols.selects.setdefault(target.strip(), [])
                selectors.append((self._current.symbol, condition.strip()))


def _code(text: str) -> str:
    """Cut a comment off; ``#`` inside quotes stays."""
    return re.sub(r"\s+#[^\"']*$", "", text).strip()


def _after_help(lines: list[str], number: int) -> int:
    """Return the number of the first line after a help text."""
    indent: int | None = None
    while number < len(lines):
        stripped = lines[number].strip()
        here = len(lines[number]) - len(lines[number].lstrip())
        if stripped:
            if indent is None:
                indent = here
            if here < indent or here == 0:
                return number
        number += 1
    return number
