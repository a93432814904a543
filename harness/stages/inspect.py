"""Inspect: find a place in what somebody built, and show it with its findings."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from harness import kernel_build
from harness.elf.feature import Features, image_features, parse_cpufeatures
from harness.elf.load import load
from harness.elf.program import Program
from harness.errors import UserError
from harness.finding import Finding
from harness.verify.columns import Columns, read_columns
from harness.verify.listing import Listing, list_code
from harness.verify.many import Given, check_many

MAX_BYTES = 64 << 10  # of a symbol that does not tell its size
_PLACE = re.compile(
    r"(?P<symbol>[^+\s]+)(?:\+(?P<offset>0x[0-9a-f]+|\d+))?(?:/0x[0-9a-f]+)?$", re.I
)
SIMILAR_SHOWN = 5


class Shown(Struct, frozen=True):
    """What ``orc-harness show`` prints.

    Attributes:
        listing: the whole function.
        asked: offset in it that was asked for; None if the function was.
        findings: those of the file whose place is in the listing.
        notes: what a reader should know.
    """

    listing: Listing
    asked: int | None
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]


def show(of: Path, place: str) -> Shown:
    """Return the function at ``place`` (``symbol+0x1c`` or an address) in ``of``.

    ``of`` is a file or a build directory, of which the first file that has the
    symbol is taken.

    Raises:
        UserError: nothing there has such a place, or it carries no ORC.
    """
    found = kernel_build.find(of)
    symbol, offset = parse_place(place)
    program = _having(found.files, symbol, of)
    columns = read_columns(program, features_of(found, program))
    if columns is None:
        raise UserError(
            f"{program.name} carries no ORC",
            hint="a kernel has it with CONFIG_UNWINDER_ORC=y",
        )
    name, address, size = extent(program, symbol, offset or 0)
    listing = list_code(columns, name, address, size)
    asked = offset
    if symbol.startswith("0x"):
        asked = int(symbol, 16) + (offset or 0) - address
    inside = [
        finding
        for finding in findings_of(found, program.path)
        if _within(finding, listing, program)
    ]
    return Shown(listing, asked, tuple(inside), _notes(program, name, columns))


def findings_of(found: kernel_build.KernelBuild, path: Path) -> tuple[Finding, ...]:
    """Return the findings of ``path``, from the archive if it was validated before.

    Raises:
        HarnessError: it cannot be judged.
    """
    header = found.cpufeatures
    names = None if header is None else parse_cpufeatures(header.read_text())
    (checked,) = check_many([path], given=Given(names))
    if checked.verdict is None:
        raise checked.error or UserError(f"{path} has no verdict")
    return checked.verdict.findings


def features_of(found: kernel_build.KernelBuild, program: Program) -> Features:
    """Return the names of feature bits that a build or the image itself tells."""
    if found.cpufeatures is not None:
        return parse_cpufeatures(found.cpufeatures.read_text())
    return image_features(program)


def parse_place(place: str) -> tuple[str, int | None]:
    """Split ``symbol+0x1c`` (a trace's ``/0x40`` is ignored) into its two parts.

    Raises:
        UserError: it is no place.
    """
    if (match := _PLACE.match(place)) is None:
        raise UserError(
            f"{place!r} is no place in code",
            hint="name a symbol, symbol+0x1c, or an address such as 0xffffffff81000000",
        )
    offset = match["offset"]
    return match["symbol"], None if offset is None else int(offset, 0)


def extent(program: Program, symbol: str, offset: int) -> tuple[str, int, int]:
    """Return name, address and size of the function that ``symbol+offset`` is in.

    Raises:
        UserError: no code is there.
    """
    symbols = program.symbols
    if symbol.startswith("0x"):
        index = symbols.index(int(symbol, 16) + offset)
    else:
        found = symbols.find_index(symbol)
        index = -1 if found is None else found
    section = program.section_at(int(symbols.address[index])) if index >= 0 else None
    if section is None or not section.executable:
        raise UserError(f"{program.name} has no code at {symbol}")
    address, size = int(symbols.address[index]), int(symbols.size[index])
    if not size:
        behind = symbols.address[symbols.address > symbols.address[index]]
        end = min(int(behind[0]) if len(behind) else section.end, section.end)
        size = min(end - address, MAX_BYTES)
    if not symbol.startswith("0x") and offset > size:  # its end is a return address
        raise UserError(f"{symbol} has {size:#x} bytes, and no +{offset:#x}")
    return symbols.name[index], address, size


def _having(files: Iterable[Path], symbol: str, of: Path) -> Program:
    last: Program | None = None
    for path in files:
        last = load(path)
        if symbol.startswith("0x") or last.symbols.find(symbol) is not None:
            return last
    similar = _similar(last, symbol) if last is not None else []
    raise UserError(
        f"{of} has no symbol {symbol}",
        hint=f"there is {', '.join(similar)}"
        if similar
        else "name the file that has it with --of",
    )


def _similar(program: Program, symbol: str) -> list[str]:
    names = sorted({str(name) for name in program.symbols.names if symbol in name})
    return sorted(names, key=len)[:SIMILAR_SHOWN]


def _within(finding: Finding, listing: Listing, program: Program) -> bool:
    where = finding.location
    start = program.symbols.find(where.symbol)
    if where.symbol == listing.symbol:
        return where.offset < listing.size
    if start is None:
        return False
    return 0 <= start + where.offset - listing.address < listing.size


def _notes(program: Program, name: str, columns: Columns) -> tuple[str, ...]:
    same = int((program.symbols.names == name).sum())
    notes = [*program.notes, f"ORC format {columns.table.format}"]
    if same > 1:
        notes.append(f"{same} symbols are called {name}: an address tells them apart")
    return tuple(notes)
