"""Backtrace: a call trace as the kernel prints it, in /proc/*/stack or on its console.

Entries are names, not addresses: a trace reads the same with KASLR. Only what the
unwinder itself reported is kept; the console's ``? name`` lines are words on the stack
that it did not vouch for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from msgspec import Struct, field

LIMIT = 64  # entries; longer ones are cut by the kernel (MAX_STACK_TRACE_DEPTH)

_PREFIX = re.compile(r"^(?:<\d+>)?(?:\[[ \d.]+\])?(?:\[ *[TC]\d+\])? ?")
_NAME = r"([\w.$]+)\+0x([0-9a-f]+)/0x([0-9a-f]+)(?: \[(\w+)[^\]]*\])?"
_PROC = re.compile(rf"^\[<[0-9a-f]+>\] {_NAME}\s*$")
_ENTRY = re.compile(rf"^ {_NAME}\s*$")
_RIP = re.compile(rf"^RIP: ([0-9a-f]{{4}}):{_NAME}\s*$")
_USER_RIP = re.compile(r"^RIP: ([0-9a-f]{4}):0x[0-9a-f]+")
_BEGIN = re.compile(r"^Call Trace:\s*$")
_END = re.compile(r"^ </TASK>\s*$")


class Entry(Struct, frozen=True):
    """One line of a trace.

    Attributes:
        size: what kallsyms says of the symbol's size, for telling namesakes apart.
        module: the module it is in, or empty.
        interrupted: it is the ip of saved registers, not a return address.
    """

    symbol: str
    offset: int
    size: int
    module: str = ""
    interrupted: bool = False

    def __str__(self) -> str:
        module = f" [{self.module}]" if self.module else ""
        return f"{self.symbol}+{self.offset:#x}{module}"


class Backtrace(Struct, frozen=True):
    """A trace, innermost entry first.

    Attributes:
        source: where it was printed (``stack/1/init``, ``tasks``).
        user: user-mode registers were printed behind it.
        cut: its end was not seen, so that nothing can be said of it.
    """

    source: str
    entries: tuple[Entry, ...]
    user: bool = False
    cut: bool = False


def parse_stack(text: str, source: str) -> Backtrace:
    """Read the contents of one /proc/PID/stack (empty for a task that runs)."""
    found = (_PROC.match(line) for line in text.splitlines())
    entries = tuple(_entry(match.groups()) for match in found if match)
    return Backtrace(source, entries, cut=len(entries) >= LIMIT)


def parse_console(text: str, source: str) -> list[Backtrace]:
    """Read all call traces in a console's or the log's text.

    Lines of other messages in between are passed over.
    """
    traces: list[Backtrace] = []
    current: _Reader | None = None
    for line in _plain(text.splitlines()):
        if _BEGIN.match(line):
            if current is not None:
                traces.append(current.trace(source, cut=True))
            current = _Reader()
        elif current is not None and current.line(line):
            traces.append(current.trace(source, cut=False))
            current = None
    if current is not None:
        traces.append(current.trace(source, cut=True))
    return traces


class _Reader(Struct):
    # One trace under way.
    entries: list[Entry] = field(default_factory=list)
    user: bool = False

    def line(self, line: str) -> bool:
        # Takes a line; True if it was the last one.
        if match := _ENTRY.match(line):
            self.entries.append(_entry(match.groups()))
        elif match := _RIP.match(line):
            selector, *rest = match.groups()
            if not int(selector, 16) & 3:
                self.entries.append(_entry(rest, interrupted=True))
        elif match := _USER_RIP.match(line):
            self.user = int(match[1], 16) & 3 == 3
        return bool(_END.match(line))

    def trace(self, source: str, cut: bool) -> Backtrace:
        return Backtrace(source, tuple(self.entries), self.user, cut)


def _plain(lines: Iterable[str]) -> Iterable[str]:
    # What comes before the text of a message: level, time, caller.
    for line in lines:
        prefix = _PREFIX.match(line.rstrip("\r"))
        assert prefix is not None  # it can be empty
        stamped = prefix.group().strip()
        yield line[prefix.end() :] if stamped else line


def _entry(groups: Iterable[str | None], interrupted: bool = False) -> Entry:
    symbol, offset, size, module = groups
    return Entry(
        symbol or "",
        int(offset or "0", 16),
        int(size or "0", 16),
        module or "",
        interrupted,
    )
