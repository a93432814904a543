"""Load: a file read as a :class:`harness.elf.program.Program`.

A linked kernel keeps its addresses; an object or module gets some from
:mod:`harness.elf.layout`; a bzImage is unpacked first.
"""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from harness.elf import bzimage
from harness.elf.file import (
    ET_REL,
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHF_WRITE,
    SHT_NOBITS,
    Bytes,
    ElfFile,
    parse_elf,
    read_file,
)
from harness.elf.join import join
from harness.elf.layout import ZONE_END, Layout, lay_out, padding, relocated
from harness.elf.program import Program, Section
from harness.elf.symbol import (
    SHN_ABS,
    SHN_LORESERVE,
    STT_FILE,
    STT_SECTION,
    RawSymbols,
    Symbols,
    read_symbols,
    sort_symbols,
)
from harness.errors import FormatError
from harness.finding import KERNEL, object_name

MODULE_SIGNATURE = b"~Module signature appended~\n"  # kernel/module/signing.c
_BANNER = re.compile(rb"Linux version ([\x21-\x7e]+) ")
_VERMAGIC = re.compile(rb"(?:^|\x00)vermagic=([\x21-\x7e]+) ")


def load(path: Path) -> Program:
    """Read the kernel, module or object ``path``, packed or not.

    Raises:
        FormatError: it is none, is damaged, or is for another machine.
        InfraError: the program that unpacks it is missing.
    """
    program = parse(read_file(path), object_name(path), path)
    # one kernel under any name, packed or not: its findings have the same keys
    return program if program.relocatable else replace(program, name=KERNEL)


def load_together(paths: Sequence[Path], having: str) -> tuple[Program, list[Path]]:
    """Read those of the modules ``paths`` that have a section ``having`` as one program.

    Return it, and the paths of the others.

    Raises:
        FormatError: one is damaged or no relocatable object, or none has the section.
        InfraError: the program that unpacks one is missing.
    """
    elfs = {path: parse_elf(read_file(path), object_name(path)) for path in paths}
    for elf in elfs.values():
        if elf.type != ET_REL:
            raise FormatError(f"{elf.name}: linked, expected an object or a module")
    parts = [elf for elf in elfs.values() if having in elf.names]
    if not parts:
        raise FormatError(f"none of {len(paths)} objects has a section {having}")
    # one that is left is read as it is alone: its places have its name
    whole = join(parts, f"{len(parts)} objects") if len(parts) > 1 else parts[0]
    others = [path for path, elf in elfs.items() if having not in elf.names]
    return _program(whole, paths[0]), others


def parse(data: Bytes | bytes, name: str, path: Path) -> Program:
    """Read the kernel, module or object that ``data`` holds (see :func:`load`)."""
    content = np.frombuffer(data, dtype=np.uint8)
    notes = []
    release = ""
    if bzimage.is_bzimage(content):
        image = bzimage.parse_bzimage(content, name)
        content, release = image.vmlinux, image.release
        notes.append(f"unpacked from a bzImage ({image.packing} payload)")
    elf = parse_elf(content, name)
    program = _program(elf, path)
    return replace(
        program,
        release=release or program.release,
        notes=(*notes, *program.notes, *_module_notes(elf, content)),
    )


def _program(elf: ElfFile, path: Path) -> Program:
    raw = read_symbols(elf)
    relocatable = elf.type == ET_REL
    layout = lay_out(elf, raw) if relocatable else _linked(elf, raw)
    contents = relocated(elf, raw, layout) if relocatable else _contents(elf, layout)
    sections = _sections(elf, layout, contents)
    program = Program(
        name=elf.name,
        path=path,
        relocatable=relocatable,
        sections=sections,
        symbols=_symbols(raw, layout),
        externals=_externals(raw, layout),
        release=_release(sections),
        notes=(),
    )
    if len(raw.names):
        return program
    from harness.elf.stripped import named  # not where the file names its symbols

    return named(program)


def _linked(elf: ElfFile, raw: RawSymbols) -> Layout:
    laid_out = (elf.headers["flags"] & SHF_ALLOC) != 0
    laid_out[0] = False
    order = np.flatnonzero(laid_out)
    symbol = raw.records["value"].astype(np.uint64)
    section = elf.headers["address"].astype(np.uint64)
    return Layout(section, order, np.arange(len(order), dtype=np.int64), symbol)


def _contents(elf: ElfFile, layout: Layout) -> dict[int, Bytes]:
    return {index: elf.contents(index) for index in layout.order.tolist()}


def _sections(
    elf: ElfFile, layout: Layout, contents: dict[int, Bytes]
) -> tuple[Section, ...]:
    cuts = np.flatnonzero(np.append(True, layout.group[1:] != layout.group[:-1]))
    sections = [
        _section(elf, layout, rows.tolist(), contents)
        for rows in np.split(layout.order, cuts[1:])
        if len(rows)
    ]
    _require_code_bytes(elf, contents)
    if any(_is_mixed(elf, section.index) for section in sections):
        ips = _orc_ips(sections)
        sections = [
            part
            for section in sections
            for part in (
                _split(section, ips) if _is_mixed(elf, section.index) else [section]
            )
        ]
    # Of sections that share an address only the one that takes space can be
    # found by address, so it goes last.
    sections.sort(key=lambda s: (s.address, s.size, s.index))
    sized = [s for s in sections if s.size]
    if sized and sized[-1].end > ZONE_END:
        raise FormatError(
            f"{elf.name}: section {sized[-1].name} ends at {sized[-1].end:#x}, "
            "beyond 64 bits"
        )
    for section, following in itertools.pairwise(sized):
        if section.end > following.address:
            raise FormatError(
                f"{elf.name}: sections {section.name} and {following.name} overlap "
                f"at {following.address:#x}"
            )
    return tuple(sections)


def _section(
    elf: ElfFile, layout: Layout, rows: list[int], contents: dict[int, Bytes]
) -> Section:
    """Return one section made of ``rows``, which lie side by side."""
    index, header = rows[0], elf.shdrs[rows[0]]
    data, size, owner = contents[index], header.size, ""
    if len(rows) > 1:
        parts = [
            part
            for row in rows
            for part in (contents[row], np.zeros(padding(elf, row), np.uint8))
        ]
        data = np.concatenate(parts)
        size = data.size
    elif len(elf.members) > 1:
        owner = elf.members[bisect.bisect_right(elf.firsts, index) - 1]
    return Section(
        name=elf.names[index],
        index=index,
        address=int(layout.section[index]),
        size=size,
        data=data,
        executable=_is_code(elf, index),
        alloc=bool(header.flags & SHF_ALLOC),
        entsize=header.entsize,
        object=owner,
    )


def _is_code(elf: ElfFile, index: int) -> bool:
    """Tell whether a section is code as a whole; see :func:`_split`."""
    flags = elf.shdrs[index].flags
    return bool(flags & SHF_EXECINSTR) and not _is_mixed(elf, index)


def _is_mixed(elf: ElfFile, index: int) -> bool:
    flags = elf.shdrs[index].flags
    return elf.type != ET_REL and not ~flags & (SHF_EXECINSTR | SHF_WRITE)


def _split(section: Section, ips: npt.NDArray[np.uint64]) -> list[Section]:
    """Split a section that is both writable and executable into code and data.

    The linker script puts relocate_kernel into .data (.text..relocate_kernel in
    arch/x86/kernel/vmlinux.lds.S, v6.14), which makes all of it executable. Code
    is what the ORC table ``ips`` covers.
    """
    start, end = np.uint64(section.address), np.uint64(section.end)
    inside = ips[(ips >= start) & (ips < end)]
    if not len(inside):
        return [section]
    cuts = [0, int(inside.min() - start), int(inside.max() - start), section.size]
    return [
        replace(
            section,
            name=f"{section.name}+{first:#x}" if first else section.name,
            address=section.address + first,
            size=last - first,
            data=section.data[first:last],
            executable=place == 1,
        )
        for place, (first, last) in enumerate(itertools.pairwise(cuts))
        if first < last
    ]


def _orc_ips(sections: list[Section]) -> npt.NDArray[np.uint64]:
    for section in sections:
        if section.name == ".orc_unwind_ip":
            whole = section.data[: len(section.data) & ~3]
            offsets = np.frombuffer(whole, dtype="<i4").astype(np.int64)
            places = np.arange(len(offsets), dtype=np.uint64) * np.uint64(4)
            return np.uint64(section.address) + places + offsets.view(np.uint64)
    return np.zeros(0, dtype=np.uint64)


def _require_code_bytes(elf: ElfFile, contents: dict[int, Bytes]) -> None:
    headers = [elf.shdrs[index] for index in contents]
    sized = [h for h in headers if h.flags & SHF_EXECINSTR and h.size]
    if sized and all(header.type == SHT_NOBITS for header in sized):
        raise FormatError(
            f"{elf.name}: its code has no bytes, it is the debug half of a file",
            hint="give the file that it was split from",
        )


def _symbols(raw: RawSymbols, layout: Layout) -> Symbols:
    keep = ~np.isin(raw.kind, (STT_SECTION, STT_FILE))
    keep[raw.nulls] = False
    # Numbers, not places: they would name code that lies near them.
    keep &= raw.section != SHN_ABS
    keep &= ~raw.names.unsaid
    home = np.arange(len(layout.section), dtype=np.int32)
    home[layout.order] = layout.order[np.searchsorted(layout.group, layout.group)]
    section = np.full(len(raw.section), -1, dtype=np.int32)
    inside = (raw.section < SHN_LORESERVE) & ~raw.external
    section[inside] = home[raw.section[inside]]
    return sort_symbols(raw, layout.symbol, section, keep)


def _externals(raw: RawSymbols, layout: Layout) -> dict[int, str]:
    rows = np.flatnonzero(raw.external)
    names = raw.names.take(rows).column().tolist()
    return dict(zip(layout.symbol[rows].tolist(), names, strict=True))


def _module_notes(elf: ElfFile, content: Bytes) -> list[str]:
    notes = []
    if content[-len(MODULE_SIGNATURE) :].tobytes() == MODULE_SIGNATURE:
        notes.append("signed module: the signature is not checked")
    if any(name.startswith(".klp.rela.") for name in elf.names):
        notes.append("livepatch: symbols that it patches count as external")
    return notes


def _release(sections: tuple[Section, ...]) -> str:
    for name, pattern in ((".modinfo", _VERMAGIC), (".rodata", _BANNER)):
        for section in sections:
            if section.name != name:
                continue
            if found := pattern.search(section.data.data):
                return str(found[1], "ascii")
    return ""
