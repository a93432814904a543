"""Join: several objects side by side in one file, as ``ld -r`` would put them.

A kernel has thousands of small modules. Much of what it takes to validate one is
done per program and not per byte; joined, they share it. Nothing is linked: what one
object takes from another stays external. Sections of one name that hold data become
one (``layout.py``), code keeps the name of the object that it is from.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from harness.elf.column import joined
from harness.elf.file import SHT_RELA, SHT_SYMTAB, ElfFile


def join(elfs: Sequence[ElfFile], name: str) -> ElfFile:
    """Return ``elfs``, all of them relocatable, as one file called ``name``."""
    starts = list(itertools.accumulate((e.data.size for e in elfs), initial=0))
    firsts = list(itertools.accumulate((len(e.headers) for e in elfs), initial=0))
    headers = joined((elf.headers for elf in elfs), elfs[0].headers.dtype)
    owner = np.repeat(np.arange(len(elfs)), [len(elf.headers) for elf in elfs])
    headers["offset"] += np.array(starts, dtype=np.uint64)[owner]
    first = np.array(firsts, dtype=np.uint32)[owner]
    linked = np.isin(headers["type"], (SHT_RELA, SHT_SYMTAB))
    headers["link"] += np.where(linked, first, np.uint32(0))
    relocates = headers["type"] == SHT_RELA
    headers["info"] += np.where(relocates, first, np.uint32(0))
    return ElfFile(
        name=name,
        data=np.concatenate([elf.data for elf in elfs]),
        type=elfs[0].type,
        headers=headers,
        names=tuple(itertools.chain.from_iterable(elf.names for elf in elfs)),
        end=starts[-1],
        members=tuple(elf.name for elf in elfs),
        firsts=tuple(firsts[:-1]),
    )
