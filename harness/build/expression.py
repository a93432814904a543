"""Expression: a Kconfig dependency, such as ``XEN && (X86_64 || !SMP)``.

Evaluated over three values, n < m < y, as Documentation/kbuild/kconfig-language.rst
says; compiler tests such as ``$(cc-option,-mfoo)`` cannot be evaluated here and
count as met.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

TRISTATE = {"n": 0, "m": 1, "y": 2}
_TOKEN = re.compile(r"\|\||&&|!=|<=|>=|[()!=<>]|\"[^\"]*\"|'[^']*'|\0\d+|[\w./-]+")
_COMPARISONS = ("=", "!=", "<", "<=", ">", ">=")


class Expression(Struct, frozen=True):
    """A node: ``op`` is ``symbol``, ``macro``, ``!``, ``&&``, ``||`` or a comparison.

    ``text`` names a symbol or macro; ``parts`` are the operands of the others.
    """

    op: str
    text: str = ""
    parts: tuple[Expression, ...] = ()

    def __str__(self) -> str:
        if not self.parts:
            return self.text
        if self.op == "!":
            return f"!{self.parts[0]}"
        return f"({f' {self.op} '.join(str(part) for part in self.parts)})"

    def value(self, config: Mapping[str, str]) -> int:
        """Evaluate to 0 (n), 1 (m) or 2 (y)."""
        if self.op == "macro":
            return 2
        if self.op == "symbol":
            return TRISTATE.get(self._content(config), 0)
        if self.op == "!":
            return 2 - self.parts[0].value(config)
        if self.op in ("&&", "||"):
            values = [part.value(config) for part in self.parts]
            return min(values) if self.op == "&&" else max(values)
        return 2 if self._compare(config) else 0

    def unmet(self, config: Mapping[str, str]) -> list[str]:
        """Name what keeps the value at n, in words; empty if it is not n."""
        if self.value(config):
            return []
        if self.op == "&&":
            return [line for part in self.parts for line in part.unmet(config)]
        if self.op == "||":
            return [" or ".join(" and ".join(p.unmet(config)) for p in self.parts)]
        if self.op == "symbol":
            return ["never"] if self.text == "n" else [f"{self.text} is not set"]
        if self.op == "!" and self.parts[0].op == "symbol":
            return [f"{self.parts[0]} is set"]
        return [f"{self} does not hold"]

    def _content(self, config: Mapping[str, str]) -> str:
        if self.text in TRISTATE or self.text.startswith(("'", '"')):
            return self.text.strip("'\"")
        return config.get(self.text, "n").strip('"')

    def _compare(self, config: Mapping[str, str]) -> bool:
        left, right = (part._content(config) for part in self.parts)
        if self.op in ("=", "!="):
            if self.parts[1].text not in config and right == "n":
                right = self.parts[1].text  # a literal number or word
            return (left == right) is (self.op == "=")
        return True  # an ordering of versions: a test of the compiler


def parse(text: str) -> Expression:
    """Parse ``text``; what cannot be parsed is a macro (taken as met)."""
    hidden, macros = _hide_macros(text)
    tokens = _TOKEN.findall(hidden)
    try:
        expression, rest = _or(tokens, macros)
    except IndexError:
        return Expression("macro", text)
    return Expression("macro", text) if rest else expression


def _hide_macros(text: str) -> tuple[str, list[str]]:
    """Replace each ``$(...)`` by a token of its own."""
    macros: list[str] = []
    while (start := text.find("$(")) >= 0:
        end = _closing(text, start + 1)
        macros.append(text[start : end + 1])
        text = f"{text[:start]} \0{len(macros) - 1} {text[end + 1 :]}"
    return text, macros


def _closing(text: str, start: int) -> int:
    """Return where the bracket that opens at ``start`` closes."""
    depth = 0
    for index in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[index], 0)
        if depth == 0:
            return index
    return len(text) - 1


_Parser = Callable[[Sequence[str], list[str]], tuple[Expression, Sequence[str]]]


def _or(tokens: Sequence[str], macros: list[str]) -> tuple[Expression, Sequence[str]]:
    return _joined("||", _and, tokens, macros)


def _and(tokens: Sequence[str], macros: list[str]) -> tuple[Expression, Sequence[str]]:
    return _joined("&&", _not, tokens, macros)


def _joined(
    operator: str, operand: _Parser, tokens: Sequence[str], macros: list[str]
) -> tuple[Expression, Sequence[str]]:
    left, tokens = operand(tokens, macros)
    parts = [left]
    while tokens and tokens[0] == operator:
        part, tokens = operand(tokens[1:], macros)
        parts.append(part)
    return (left if len(parts) == 1 else Expression(operator, "", tuple(parts))), tokens


def _not(tokens: Sequence[str], macros: list[str]) -> tuple[Expression, Sequence[str]]:
    if tokens[0] == "!":
        part, tokens = _not(tokens[1:], macros)
        return Expression("!", "", (part,)), tokens
    if tokens[0] == "(":
        inner, tokens = _or(tokens[1:], macros)
        return inner, tokens[1:]
    left = _atom(tokens[0], macros)
    if len(tokens) > 2 and tokens[1] in _COMPARISONS:
        right = _atom(tokens[2], macros)
        return Expression(tokens[1], "", (left, right)), tokens[3:]
    return left, tokens[1:]


def _atom(token: str, macros: list[str]) -> Expression:
    if token.startswith("\0"):
        return Expression("macro", macros[int(token[1:])])
    return Expression("symbol", token)
