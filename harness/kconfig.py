"""Kconfig: what a kernel is asked to have, and whether its .config has it.

A fragment is a .config with one addition: where kernels renamed an option, a line
lists the names, and at least one of them must hold::

    CONFIG_MITIGATION_RETPOLINE=y | CONFIG_RETPOLINE=y

A name of such a line gives way to a line that asks for another value of it alone.

kconfig drops what it cannot grant without a word; so every request is compared with
the final .config, and what was dropped is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from harness.errors import UserError

_SET = re.compile(r"CONFIG_(\w+)=(.+)")
_UNSET = re.compile(r"# CONFIG_(\w+) is not set")


class Setting(Struct, frozen=True):
    """A symbol without its ``CONFIG_`` and a value: ``n``, ``m``, ``y``, ``8``."""

    symbol: str
    value: str

    def __str__(self) -> str:
        if self.value == "n":
            return f"# CONFIG_{self.symbol} is not set"
        return f"CONFIG_{self.symbol}={self.value}"

    def holds(self, config: Mapping[str, str]) -> bool:
        """Tell whether ``config`` has it; an absent symbol is ``n``."""
        return config.get(self.symbol, "n") == self.value


class Request(Struct, frozen=True):
    """One line of a fragment: settings of which at least one must hold."""

    settings: tuple[Setting, ...]
    path: Path
    line: int

    def __str__(self) -> str:
        return " | ".join(str(setting) for setting in self.settings)

    @property
    def where(self) -> str:
        """The line, as ``small.config:12``."""
        return f"{self.path.name}:{self.line}"

    def holds(self, config: Mapping[str, str]) -> bool:
        """Tell whether ``config`` grants it."""
        return any(setting.holds(config) for setting in self.settings)


def parse_config(text: str) -> dict[str, str]:
    """Return symbol -> value of a .config; ``# CONFIG_X is not set`` is ``n``."""
    config: dict[str, str] = {}
    for line in text.splitlines():
        if setting := _parse_setting(line.strip()):
            config[setting.symbol] = setting.value
    return config


def parse_fragment(text: str, path: Path) -> list[Request]:
    """Return the requests of a fragment; ``path`` is for messages.

    Raises:
        UserError: a line is neither setting nor comment.
    """
    requests = []
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or (stripped.startswith("#") and not _UNSET.match(stripped)):
            continue
        settings = [_parse_setting(part.strip()) for part in stripped.split(" | ")]
        found = tuple(setting for setting in settings if setting is not None)
        if len(found) != len(settings):
            raise UserError(
                f"{path}:{number}: {stripped!r} is not a Kconfig setting",
                hint="write CONFIG_X=y, or: # CONFIG_X is not set",
            )
        requests.append(Request(found, path, number))
    return requests


def _parse_setting(text: str) -> Setting | None:
    if match := _SET.fullmatch(text):
        return Setting(match[1], match[2])
    if match := _UNSET.fullmatch(text):
        return Setting(match[1], "n")
    return None


def read_fragments(paths: Iterable[Path]) -> list[Request]:
    """Read and merge the fragments ``paths``.

    Raises:
        UserError: one is missing, or two ask for different values of a symbol.
    """
    requests: list[Request] = []
    for path in paths:
        try:
            requests += parse_fragment(path.read_text(), path)
        except OSError as exc:
            raise UserError(f"cannot read {path}: {exc.strerror}") from exc
    return merge(requests)


def merge(requests: Iterable[Request]) -> list[Request]:
    """Return ``requests`` without repetitions, and without what gives way.

    Raises:
        UserError: two ask for different values of a symbol; both are named.
    """
    merged: list[Request] = []
    first: dict[str, tuple[Setting, Request]] = {}
    for request in _yielding(list(requests)):
        if any(request.settings == other.settings for other in merged):
            continue
        for setting in request.settings:
            before, by = first.setdefault(setting.symbol, (setting, request))
            if before != setting:
                raise UserError(
                    f"{by.where} asks for {before}, {request.where} for {setting}",
                    hint="a symbol can have one value; take one of the lines out",
                )
        merged.append(request)
    return merged


def _yielding(requests: Sequence[Request]) -> Iterator[Request]:
    """Take from lists of names those of which a line of their own asks otherwise."""
    alone = {
        r.settings[0].symbol: r.settings[0] for r in requests if not r.settings[1:]
    }
    for request in requests:
        kept = tuple(s for s in request.settings if alone.get(s.symbol, s) == s)
        yield replace(request, settings=kept) if kept else request


def render(requests: Iterable[Request], known: Collection[str]) -> str:
    """Return the lines to add to a .config: settings whose symbol is ``known``."""
    lines = [
        str(setting)
        for request in requests
        for setting in request.settings
        if setting.symbol in known
    ]
    return "".join(f"{line}\n" for line in dict.fromkeys(lines))


def dropped(requests: Iterable[Request], config: Mapping[str, str]) -> list[Request]:
    """Return the requests that ``config`` does not grant."""
    return [request for request in requests if not request.holds(config)]


def require(
    requests: Iterable[Request],
    config: Mapping[str, str],
    why: Callable[[Setting, Mapping[str, str]], str],
) -> None:
    """Raise UserError unless ``config`` grants every request.

    ``why`` tells why a setting does not hold; it is asked about each that was
    dropped, and all of them are in the message.
    """
    lines = [
        f"  {request.where}: {setting}: {why(setting, config)}"
        for request in dropped(requests, config)
        for setting in request.settings
    ]
    if lines:
        raise UserError(
            "the kernel cannot have all that is asked for:\n" + "\n".join(lines),
            hint="set what it needs, or take the line out of the fragment",
        )
