"""Finding: one thing that is wrong with a kernel, with its proof.

Findings are values. They sort, and their key holds no address, so that two runs
diff cleanly and a baseline survives a rebuild.
"""

from __future__ import annotations

import builtins
import itertools
import pickle
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

from msgspec import Struct
from msgspec.structs import replace

KERNEL = "vmlinux"  # what people call a linked kernel, whatever its file's name


def object_name(path: Path) -> str:
    """Return what people call the object or module ``path``, packed or not."""
    return re.sub(r"\.(xz|zst|gz|lz4|bz2)$", "", path.name)


class Location(Struct, frozen=True, eq=False):
    """A place in code, printed as the kernel prints it: ``symbol+0x1c``.

    ``object`` is the file's name as people say it (``vmlinux``, ``kernel/fork.o``,
    ``crc7.ko``); ``offset`` counts bytes from the symbol; ``address`` is the linked
    address, or the section offset in a relocatable object; ``line`` is
    ``file:line`` when debug information tells.
    """

    object: str
    symbol: str
    offset: int
    address: int = 0
    line: str = ""

    @property
    def place(self) -> tuple[str, str, int]:
        """What tells it apart: where that was linked to, and from which line, does not."""
        return self.object, self.symbol, self.offset

    def __eq__(self, other: builtins.object) -> bool:
        return isinstance(other, Location) and self.place == other.place

    def __lt__(self, other: Location) -> bool:
        return self.place < other.place

    def __le__(self, other: Location) -> bool:
        return self.place <= other.place

    def __gt__(self, other: Location) -> bool:
        return self.place > other.place

    def __ge__(self, other: Location) -> bool:
        return self.place >= other.place

    def __hash__(self) -> int:
        return hash(self.place)

    def __str__(self) -> str:
        return f"{self.symbol}+{self.offset:#x}" if self.offset else self.symbol


class Lines(Sequence[str]):
    """Lines that are drawn when somebody looks, as the tuple that they are then.

    Most findings share their cause with another and are never shown. So ``collect``
    is asked when that is sure, and what it gives is text (``str``) once it is read.
    """

    def __init__(self, collect: Callable[[], Iterable[object]]) -> None:
        self._collect = collect
        self._drawn: tuple[str, ...] | None = None

    def collected(self) -> Lines:
        """Return the same lines, which hold nothing of what they were collected from."""
        lines = tuple(self._collect())
        return Lines(lambda: lines)

    def _lines(self) -> tuple[str, ...]:
        if self._drawn is None:
            self._drawn = tuple(map(str, self._collect()))
        return self._drawn

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[str, ...]: ...
    def __getitem__(self, at: int | slice) -> str | tuple[str, ...]:
        return self._lines()[at]

    def __len__(self) -> int:
        return len(self._lines())

    def __eq__(self, other: builtins.object) -> bool:
        return self._lines() == (tuple(other) if isinstance(other, Lines) else other)

    def __hash__(self) -> int:
        return hash(self._lines())

    def __reduce__(self) -> tuple[Callable[[bytes], Lines], tuple[bytes]]:
        return _packed, (pickle.dumps(tuple(self._collect())),)


def _packed(lines: bytes) -> Lines:
    """Return lines that are unpacked when read: that imports what draws them."""
    return Lines(lambda: pickle.loads(lines))


def settled(finding: Finding) -> Finding:
    """Return ``finding`` as it is kept: it holds nothing of the program it is about."""
    if isinstance(finding.window, Lines):
        return replace(finding, window=finding.window.collected())
    return finding


# What is read back is not drawn any more.
if TYPE_CHECKING:
    Window = tuple[str, ...] | Lines
else:
    Window = tuple[str, ...]


class Finding(Struct, frozen=True):
    """One wrong thing, with both sides of the disagreement.

    Attributes:
        rule: id in ``docs/findings.md``, such as ``alternative/ret-1``.
        location: where.
        message: one lower-case sentence: what is wrong.
        declared: what the ORC table says (``sp+16 call``), or empty.
        actual: what is true there, or empty.
        variant: the text it happens in (``replacement 2 of 3 (PVUNLOCK)``), or empty.
        platforms: the platforms whose kernel can run that text.
        cause: findings that share rule and cause are one bug (``callee error_entry``).
        ordinal: tells findings apart whose rule, object, symbol and variant are equal.
        window: the evidence, as lines of at most 100 columns.
        reproduce: the command that shows it again.
        blame: who made it (hint, compiler, objtool, linker, sorttable), if told.
        seen: where else its cause showed (``shadow of native, 3 places: KEY``).
        expired: until when it was known, why, and where that is discussed: of each
            baseline entry about it, if their days have passed.
        occurrences: how many places show it, after grouping by cause.
    """

    rule: str
    location: Location
    message: str
    declared: str = ""
    actual: str = ""
    variant: str = ""
    platforms: tuple[str, ...] = ()
    cause: str = ""
    ordinal: int = 0
    window: Window = ()
    reproduce: str = ""
    occurrences: int = 1
    blame: str = ""
    seen: tuple[str, ...] = ()
    expired: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Name this finding across rebuilds: no address, no offset."""
        if self.cause:
            return f"{self.rule}:{self.cause}"
        where = f"{self.rule}:{self.location.object}:{self.location.symbol}"
        return f"{where}:{self.variant or '-'}:{self.ordinal}"

    @property
    def order(self) -> tuple[str, Location, str, int]:
        """Sort by this: the same findings always print in the same order."""
        return (self.rule, self.location, self.variant, self.ordinal)


def number(findings: Iterable[Finding]) -> list[Finding]:
    """Sort ``findings`` and give those of equal key an ordinal each."""

    def place(finding: Finding) -> tuple[str, str, str, str, str]:
        where = finding.location
        return (
            finding.rule,
            where.object,
            where.symbol,
            finding.variant,
            finding.cause,
        )

    ordered = sorted(findings, key=lambda f: (place(f), f.order))
    return [
        finding if finding.cause else replace(finding, ordinal=ordinal)
        for _, group in itertools.groupby(ordered, key=place)
        for ordinal, finding in enumerate(group)
    ]


def group_by_cause(findings: Iterable[Finding]) -> list[Finding]:
    """Fold findings of one cause into their first, which counts the places."""
    ordered = sorted(findings, key=lambda f: f.order)
    first: dict[str, Finding] = {}
    for finding in ordered:
        if (seen := first.get(finding.key)) is None:
            first[finding.key] = finding
            continue
        first[finding.key] = replace(
            seen,
            occurrences=seen.occurrences + finding.occurrences,
            platforms=tuple(sorted({*seen.platforms, *finding.platforms})),
        )
    return sorted(first.values(), key=lambda f: (-f.occurrences, f.order))
