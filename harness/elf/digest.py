"""Digest: the hash of all that a verdict can see of a file.

That is every byte but the debug information, which is most of a production kernel
and which :meth:`harness.elf.file.ElfFile.contents` refuses: what cannot be read
need not be hashed. A packed file is hashed as it is, without unpacking it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from harness.elf.file import SHT_NOBITS, Bytes, map_file, parse_elf


def digest(path: Path) -> str:
    """Return the hash of ``path``'s bytes, debug information left out.

    Raises:
        FormatError: it cannot be read, or is a damaged ELF file.
    """
    data = map_file(path)
    hashed = hashlib.sha256()
    for first, last in _read_by_verdicts(data, path.name):
        hashed.update(data[first:last].data)
    return hashed.hexdigest()


def _read_by_verdicts(data: Bytes, name: str) -> list[tuple[int, int]]:
    """Return [first, last) of each stretch of ``data`` that is no debug section."""
    everything = [(0, len(data))]
    if data[:4].tobytes() != b"\x7fELF":
        return everything
    elf = parse_elf(data, name)
    first = elf.headers["offset"].astype(np.int64)
    size = np.where(elf.headers["type"] == SHT_NOBITS, 0, elf.headers["size"])
    last = first + size.astype(np.int64)
    read = ~elf.debug & (size > 0)
    table = elf.end - elf.headers.nbytes
    stretches, at = [], 0
    for row in np.flatnonzero(elf.debug)[np.argsort(first[elf.debug])].tolist():
        shared = read & (first < last[row]) & (last > first[row])
        if shared.any() or (table < last[row] and elf.end > first[row]):
            return (
                everything  # damaged: what is debug information is something else too
            )
        stretches.append((at, max(at, int(first[row]))))
        at = max(at, int(last[row]))
    return [*stretches, (at, max(at, len(data)))]
