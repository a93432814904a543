"""Site: an object with one function that holds one alternative site."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.elf.orc import OrcEntry
from harness.elf.program import Program
from tests.builders.elfwriter import (
    ALLOC,
    EXEC,
    UND,
    Alternative,
    ElfWriter,
    add_alternatives,
    add_orc,
    call,
)

SITE = 4  # the site's offset in .text: behind endbr64
ENDBR = bytes.fromhex("f30f1efa")
XENPV = 8 * 32 + 16
ALWAYS = 3 * 32 + 21
SMAP = 9 * 32 + 20


@dataclass(frozen=True)
class Replacement:
    """One replacement: code without padding and the condition it is used on.

    ``instrlen`` is shorter than the site for the inner one of a nested alternative.
    """

    code: bytes
    cpuid: int = SMAP
    flags: int = 0
    instrlen: int = 0


Site = tuple[bytes, Sequence[Replacement]]


def a_site(
    original: bytes,
    replacements: Sequence[Replacement],
    inside: Iterable[tuple[int, OrcEntry]] = (),
    *,
    size: int = 14,
    entsize: int = 0,
    start: OrcEntry | None = None,
    after: OrcEntry | None = None,
    functions: Sequence[tuple[str, bytes, Sequence[tuple[int, OrcEntry]]]] = (),
) -> Program:
    """Return an object whose function ``victim`` holds the site at offset SITE.

    ``inside`` are table entries at offsets from the site's start, ``start`` and
    ``after`` the states before and behind (sp+8 call). ``functions`` are (name, code, entries)
    that lie behind ``victim``, each aligned to 16 bytes.
    """
    writer = ElfWriter()
    begin = start or call(8)
    text = ENDBR + original + b"\xc3"
    entries = [(0, begin)] if begin == call(8) else [(0, call(8)), (SITE, begin)]
    entries += [(SITE + offset, entry) for offset, entry in inside]
    entries += [(SITE + len(original), after or call(8)), (len(text), UND)]
    symbols = [("victim", 0, len(text))]
    for name, code, rows in functions:
        text += b"\xcc" * (-len(text) % 16)
        symbols.append((name, len(text), len(code)))
        entries += [(len(text) + offset, entry) for offset, entry in rows]
        text += code
        entries.append((len(text), UND))
    section = writer.section(".text", text, flags=ALLOC | EXEC, align=16)
    for name, at, length in symbols:
        writer.symbol(name, section, at, length)
    add_orc(writer, section, entries)
    code = b"".join(r.code for r in replacements)
    alternatives, at = [], 0
    for one in replacements:
        alternatives.append(
            Alternative(
                SITE,
                at,
                one.cpuid,
                one.instrlen or len(original),
                len(one.code),
                flags=one.flags,
            )
        )
        at += len(one.code)
    add_alternatives(
        writer, section, code or b"\x90", alternatives, size, entsize=entsize
    )
    return writer.program("victim.o")


def many_sites(sites: Sequence[Site], behind: bytes = b"\xc3") -> Program:
    """Return an object, see :func:`sites_of`."""
    return sites_of(sites, behind).program("victim.o")


def sites_of(sites: Sequence[Site], behind: bytes = b"\xc3") -> ElfWriter:
    """Write an object with sites one behind the other, an `nopl` after each.

    ``behind`` is the code after them. The state is sp+8 everywhere.
    """
    writer = ElfWriter()
    text, code = bytearray(ENDBR), bytearray()
    rows = []
    for original, replacements in sites:
        for one in replacements:
            length = one.instrlen or len(original)
            at = (len(text), len(code))
            rows.append(
                Alternative(*at, one.cpuid, length, len(one.code), flags=one.flags)
            )
            code += one.code
        text += original + bytes.fromhex("0f1f00")
    text += behind
    section = writer.section(".text", bytes(text), flags=ALLOC | EXEC, align=16)
    writer.symbol("victim", section, 0, len(text))
    add_orc(writer, section, [(0, call(8)), (len(text), UND)])
    add_alternatives(writer, section, bytes(code), rows)
    return writer
