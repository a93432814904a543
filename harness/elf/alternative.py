"""Alternative: the table of .altinstructions, in one shape whatever kernel wrote it.

struct alt_instr (arch/x86/include/asm/alternative.h) is packed and does not say
its size. Offsets are relative to the field's own address.

    4.14 - 5.12                13 bytes  s32, s32, u16 cpuid, u8 instrlen,
                                         u8 replacementlen, u8 padlen
    5.13 - 6.2, 5.10 and later 12 bytes  no padlen; bit 15 of cpuid means "not"
      stable kernels
    6.3 -                      14 bytes  s32, s32, u16 cpuid, u16 flags, u8, u8
"""

from __future__ import annotations

import enum

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from harness.elf.program import Program, Section
from harness.errors import FormatError

MAX_WORDS = 64  # of feature bits; 6.12 has 22


class AltFlag(enum.IntFlag):
    """ALT_FLAG_*: when and how a replacement is used."""

    NONE = 0
    NOT = 1
    DIRECT_CALL = 2


class Alternatives(Struct, frozen=True):
    """The entries as columns; those of one site are contiguous.

    Sites come in the order in which the table first names them, entries of a
    site in the order of the table, which is the order of patching. A site is an
    address: nested alternatives share it and may differ in instrlen.

    Attributes:
        address: u64[n], of the original instructions.
        replacement: u64[n]; means nothing where replacementlen is 0.
        cpuid: u16[n], number of the feature or bug bit.
        flags: u16[n], AltFlag.
        instrlen: u8[n], bytes of the original, padding included.
        replacementlen: u8[n].
        padlen: u8[n], bytes of padding where the layout tells, else 0.
        index: i64[n], the entry's place in the table as shipped.
        site: i64[n], the entry's site.
        site_address: u64[m].
        site_length: i64[m], the greatest instrlen: what patching may write.
        site_first: i64[m], row of the site's first entry.
        site_count: i64[m], how many entries it has.
        entry_size: bytes per entry in the file.
    """

    address: npt.NDArray[np.uint64]
    replacement: npt.NDArray[np.uint64]
    cpuid: npt.NDArray[np.uint16]
    flags: npt.NDArray[np.uint16]
    instrlen: npt.NDArray[np.uint8]
    replacementlen: npt.NDArray[np.uint8]
    padlen: npt.NDArray[np.uint8]
    index: npt.NDArray[np.int64]
    site: npt.NDArray[np.int64]
    site_address: npt.NDArray[np.uint64]
    site_length: npt.NDArray[np.int64]
    site_first: npt.NDArray[np.int64]
    site_count: npt.NDArray[np.int64]
    entry_size: int

    def __len__(self) -> int:
        return len(self.address)


def parse_alternatives(program: Program) -> Alternatives | None:
    """Read .altinstructions of ``program``; None if it has none.

    Raises:
        FormatError: no known layout makes sense of it.
    """
    section = program.section(".altinstructions")
    if section is None or not section.size:
        return None
    candidates = [size for size in _LAYOUTS if not section.data.size % size]
    if section.entsize in _LAYOUTS:  # objtool tells since 6.17
        candidates = [size for size in candidates if size == section.entsize]
    scores = {size: _plausible(program, section, size) for size in candidates}
    best = max(scores, key=lambda size: scores[size], default=0)
    if not best or scores[best] < PLAUSIBLE:
        seen = ", ".join(f"{s} bytes: {score:.0%}" for s, score in scores.items())
        raise FormatError(
            f"{program.name}: .altinstructions has {section.data.size} bytes, "
            f"entries of 12, 13 or 14 make no sense of them "
            f"({seen or 'none divides it'})"
        )
    return _normalised(_read(section, best), best)


# The share of entries that must make sense: a kernel's bad entry is a finding,
# a table of them is a layout that we do not know.
PLAUSIBLE = 0.75

_COMMON = [("instr", "<i4"), ("replacement", "<i4"), ("cpuid", "<u2")]
_LENGTHS = [("instrlen", "u1"), ("replacementlen", "u1")]
_LAYOUTS = {
    14: np.dtype([*_COMMON, ("flags", "<u2"), *_LENGTHS]),
    12: np.dtype([*_COMMON, *_LENGTHS]),
    13: np.dtype([*_COMMON, *_LENGTHS, ("padlen", "u1")]),
}


class _Entries(Struct, frozen=True):
    address: npt.NDArray[np.uint64]
    replacement: npt.NDArray[np.uint64]
    cpuid: npt.NDArray[np.uint16]
    flags: npt.NDArray[np.uint16]
    instrlen: npt.NDArray[np.uint8]
    replacementlen: npt.NDArray[np.uint8]
    padlen: npt.NDArray[np.uint8]


def _read(section: Section, size: int) -> _Entries:
    records = np.frombuffer(section.data, dtype=_LAYOUTS[size])
    places = np.arange(len(records), dtype=np.uint64) * np.uint64(size)
    places += np.uint64(section.address)
    cpuid = records["cpuid"].astype(np.uint16)
    none = np.zeros(len(records), dtype=np.uint8)
    flags = none.astype(np.uint16)
    if size == 14:
        flags = records["flags"].astype(np.uint16)
    elif size == 12:  # ALTINSTR_FLAG_INV
        flags, cpuid = cpuid >> np.uint16(15), cpuid & np.uint16(0x7FFF)
    return _Entries(
        address=places + _wide(records["instr"]),
        replacement=places + np.uint64(4) + _wide(records["replacement"]),
        cpuid=cpuid,
        flags=flags,
        instrlen=records["instrlen"].astype(np.uint8),
        replacementlen=records["replacementlen"].astype(np.uint8),
        padlen=records["padlen"].astype(np.uint8) if size == 13 else none,
    )


def _plausible(program: Program, section: Section, size: int) -> float:
    """Return the share of entries that make sense if each has ``size`` bytes."""
    entries = _read(section, size)
    good = program.in_code(entries.address)
    good &= entries.instrlen > 0
    good &= entries.replacementlen <= entries.instrlen
    good &= entries.padlen <= entries.instrlen
    good &= entries.cpuid < 32 * MAX_WORDS
    good &= entries.flags <= AltFlag.NOT | AltFlag.DIRECT_CALL
    good &= (entries.replacementlen == 0) | program.in_code(entries.replacement)
    return float(good.mean())


def _normalised(entries: _Entries, size: int) -> Alternatives:
    sites, first, site = np.unique(
        entries.address, return_index=True, return_inverse=True
    )
    appearance = np.argsort(first, kind="stable")
    rank = np.empty_like(appearance)
    rank[appearance] = np.arange(len(sites))
    site = rank[site.reshape(-1)]
    order = np.argsort(site, kind="stable")
    count = np.bincount(site, minlength=len(sites))
    site_length = np.zeros(len(sites), dtype=np.int64)
    np.maximum.at(site_length, site, entries.instrlen.astype(np.int64))
    return Alternatives(
        address=entries.address[order],
        replacement=entries.replacement[order],
        cpuid=entries.cpuid[order],
        flags=entries.flags[order],
        instrlen=entries.instrlen[order],
        replacementlen=entries.replacementlen[order],
        padlen=entries.padlen[order],
        index=order.astype(np.int64),
        site=site[order].astype(np.int64),
        site_address=sites[appearance],
        site_length=site_length,
        site_first=(np.cumsum(count) - count).astype(np.int64),
        site_count=count.astype(np.int64),
        entry_size=size,
    )


def _wide(offsets: npt.NDArray[np.int32]) -> npt.NDArray[np.uint64]:
    return offsets.astype(np.int64).view(np.uint64)
