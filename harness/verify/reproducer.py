"""Reproducer: a finding cut out of its kernel, small enough for a bug report.

It holds the code of the function, of its replacements and of as many callees as the
finding takes, the rows of every table that are about that code, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from harness.elf.assemble import Name, Piece, assemble
from harness.elf.feature import Features
from harness.elf.load import parse
from harness.elf.program import Program
from harness.errors import FormatError, UserError
from harness.finding import Finding
from harness.verify.check import check_columns
from harness.verify.columns import Columns, read_columns
from harness.verify.cut import (
    Interval,
    comes_from,
    cut,
    extent_of,
    leads_to,
    merge,
)
from harness.verify.edges.wholesale import CAUSE
from harness.verify.edges.wholesale import RULE as WHOLESALE

SCHEMA = "orc-harness-reproducer/1"
RINGS = 8  # how far what made a frame, then callees of callees, are taken along


class CutSection(Struct, frozen=True):
    """A stretch of a section; ``data`` is in hexadecimal."""

    name: str
    address: int
    executable: bool
    entsize: int
    data: str


class Reproducer(Struct, frozen=True):
    """One finding and what it takes to find it again.

    Attributes:
        schema: :data:`SCHEMA`.
        expected: whether the finding must be found: true as reported, false once it
            is shown to be a false alarm.
        finding: as it was reported.
        key: the finding's.
        release: the kernel that the file says it is.
        sha256: of the whole file that this was cut out of.
        versions: program -> version, of what found it.
        features: number -> name, of those that its alternatives depend on.
        words: how many words of features come before the bugs.
        sections: code, and the tables about it, at their addresses.
        symbols: of that code, and of what it calls outside (``piece`` -1).
    """

    schema: str
    expected: bool
    finding: Finding
    key: str
    release: str
    sha256: str
    versions: dict[str, str]
    features: dict[int, str]
    words: int
    sections: tuple[CutSection, ...]
    symbols: tuple[Name, ...]


def program_of(reproducer: Reproducer) -> Program:
    """Return the program that ``reproducer`` holds.

    Raises:
        FormatError: its sections make no sense.
    """
    pieces = [
        Piece(s.name, s.address, bytes.fromhex(s.data), s.executable, s.entsize)
        for s in reproducer.sections
    ]
    name = reproducer.finding.location.object
    return parse(assemble(pieces, reproducer.symbols), name, Path(name))


def judge(reproducer: Reproducer) -> tuple[Finding, ...]:
    """Validate what ``reproducer`` holds; return the findings that have its key.

    Raises:
        FormatError: it carries no ORC.
    """
    features = Features(dict(reproducer.features), reproducer.words, "reproducer")
    columns = read_columns(program_of(reproducer), features, threads=1)
    if columns is None:
        raise FormatError(f"the reproducer of {reproducer.key} carries no ORC")
    findings = check_columns(columns).findings
    return tuple(f for f in findings if f.key == reproducer.key)


def reproduce(
    columns: Columns, finding: Finding, sha256: str, versions: dict[str, str]
) -> Reproducer:
    """Cut ``finding`` out of ``columns``, with as little around it as will do.

    Raises:
        UserError: it does not show again without the rest of the file, or is about
            all of it.
    """
    program = columns.program
    if finding.rule == WHOLESALE or finding.cause == CAUSE:
        raise UserError(
            f"{finding.key} is about all of {program.name}: no part of it shows that",
            hint="report the file itself: its sha256 and where it is from",
        )
    for kept in _parts(columns, _address(program, finding)):
        made = _made(columns, finding, kept, sha256, versions)
        if any(_shows(again, finding) for again in judge(made)[:1]):
            return made
    raise UserError(
        f"{finding.key} does not show again in a part of {program.name}",
        hint="report the file itself: its sha256 and where it is from",
    )


def _parts(columns: Columns, address: int) -> Iterator[list[Interval]]:
    """Yield ever larger parts around ``address``: without and with what they call.

    What made a frame goes on for long where entry code is shared by hundreds of stubs.
    """
    kept = [extent_of(columns.program, address)]
    for _ in range(RINGS):
        yield kept
        if (called := _grown(columns, kept, leads_to(columns, kept))) != kept:
            yield called
        makers = comes_from(columns, kept)
        kept = _grown(columns, kept, makers) if makers else called


def _grown(columns: Columns, kept: list[Interval], near: list[int]) -> list[Interval]:
    return merge([*kept, *(extent_of(columns.program, each) for each in near)])


def _shows(again: Finding, finding: Finding) -> bool:
    """Whether ``again`` is ``finding``, and no other that is at its place in a part."""
    return (again.declared, again.actual) == (finding.declared, finding.actual)


def dump(reproducer: Reproducer) -> bytes:
    """Return ``reproducer`` as indented JSON."""
    written = msgspec.json.encode(reproducer, enc_hook=list)
    return msgspec.json.format(written, indent=1) + b"\n"


def load(path: Path) -> Reproducer:
    """Read a reproducer that :func:`dump` wrote.

    Raises:
        FormatError: it is not JSON of this schema.
    """
    try:
        reproducer = msgspec.json.decode(path.read_bytes(), type=Reproducer)
    except (OSError, ValueError) as exc:
        raise FormatError(f"{path} is no reproducer of {SCHEMA}: {exc}") from exc
    if reproducer.schema != SCHEMA:
        raise FormatError(f"{path} has schema {reproducer.schema}, expected {SCHEMA}")
    return reproducer


def _made(
    columns: Columns,
    finding: Finding,
    kept: list[Interval],
    sha256: str,
    versions: dict[str, str],
) -> Reproducer:
    part = cut(columns, kept)
    alternatives, names = columns.alternatives, columns.features.names
    used = set() if alternatives is None else set(alternatives.cpuid.tolist())
    return Reproducer(
        schema=SCHEMA,
        expected=True,
        finding=finding,
        key=finding.key,
        release=columns.program.release,
        sha256=sha256,
        versions=versions,
        features={number: names[number] for number in sorted(used & names.keys())},
        words=columns.features.words,
        sections=tuple(
            CutSection(p.name, p.address, p.executable, p.entsize, p.data.hex())
            for p in part.pieces
        ),
        symbols=part.names,
    )


def _address(program: Program, finding: Finding) -> int:
    where = finding.location
    if not program.relocatable:
        return where.address
    start = program.symbols.find(where.symbol)
    section = program.section(where.symbol)
    if start is None and section is None:
        raise UserError(f"{program.name} has no {where.symbol}")
    begin = start if start is not None else section.address if section else 0
    return begin + where.offset
