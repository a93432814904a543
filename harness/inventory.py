"""Inventory: what the cache holds, how much of it, and what may go.

Everything there can be made again, but what only this machine knows: the store of
runs, runs that could not be saved, and the state of bisections, which are never pruned.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from msgspec import Struct

from harness import cache
from harness.errors import InfraError

USED_S = 3600.0  # what is younger may be looked at by somebody who holds nothing
# Kind -> where its entries are; each is deleted whole or not at all.
PRUNED = {
    "builds": "store/*/",
    "edits": "live/*/",
    "sources": "trees/*/",
    "verdicts": "verdicts/*/",
    "kernels": "kernels/*/",
    "compilers": "ccache-*/",
    "machines": "machine/*",
    "guests": "guest/*",
    "logs": "logs/*",
    "results": "cells/*",
    "nights": "nights/*",
    "identities": "images/*.json",
    "pytest": "pytest/*",
}
KEPT = "kept"


class Entry(Struct, frozen=True):
    """One thing in the cache.

    Attributes:
        used: seconds since the epoch when it was last written or found.
    """

    kind: str
    path: Path
    size_bytes: int
    used: float


class Kind(Struct, frozen=True):
    """All entries of one kind, summed."""

    name: str
    entries: int
    size_bytes: int
    oldest: float


def entries(root: Path) -> list[Entry]:
    """Return what is in the cache ``root``, by path; what is never pruned is one."""
    found = {
        path: Entry(kind, path, size_bytes(path), _used(path))
        for kind, pattern in PRUNED.items()
        for path in root.glob(pattern)
        if not path.name.endswith(".lock")
    }
    for path in root.glob("*") if root.is_dir() else ():
        if not any(other == path or path in other.parents for other in found):
            found[path] = Entry(KEPT, path, size_bytes(path), _used(path))
    return [found[path] for path in sorted(found)]


def kinds(found: Iterable[Entry]) -> list[Kind]:
    """Sum entries by kind, the greatest first."""
    by_kind: dict[str, list[Entry]] = {}
    for entry in found:
        by_kind.setdefault(entry.kind, []).append(entry)
    summed = [
        Kind(
            kind,
            len(some),
            sum(entry.size_bytes for entry in some),
            min(entry.used for entry in some),
        )
        for kind, some in by_kind.items()
    ]
    return sorted(summed, key=lambda kind: (-kind.size_bytes, kind.name))


def size_bytes(path: Path) -> int:
    """Return what ``path`` takes on the disk; a file with several names counts once."""
    seen: dict[tuple[int, int], int] = {}
    for one in _walk(path):
        try:
            found = one.lstat()
        except OSError:
            continue  # it went away meanwhile
        seen[found.st_dev, found.st_ino] = found.st_blocks * 512
    return sum(seen.values())


def _walk(path: Path) -> Iterator[Path]:
    yield path
    if path.is_dir() and not path.is_symlink():
        for directory, names, files in os.walk(path):
            yield from (Path(directory, name) for name in (*names, *files))


def _used(path: Path) -> float:
    inside = [path, *(path / name for name in ("manifest.json", "source.json"))]
    times = []
    for one in inside:
        try:
            times.append(one.lstat().st_mtime)
        except OSError:
            continue
    return max(times, default=0.0)


def prunable(
    found: Iterable[Entry], *, older_s: float | None, to_bytes: int | None, now: float
) -> list[Entry]:
    """Return what goes: what is older, then the oldest until the rest fits.

    Of ``older_s`` and ``to_bytes`` those that are None ask for nothing. What was used
    within the last hour stays.
    """
    found = list(found)
    left = sum(entry.size_bytes for entry in found)
    may = [e for e in found if e.kind != KEPT and now - e.used > USED_S]
    gone = []
    for entry in sorted(may, key=lambda entry: (entry.used, entry.path)):
        old = older_s is not None and now - entry.used > older_s
        if old or (to_bytes is not None and left > to_bytes):
            gone.append(entry)
            left -= entry.size_bytes
    return gone


def prune(
    root: Path, *, older_s: float | None, to_bytes: int | None, dry: bool = False
) -> list[Entry]:
    """Delete what :func:`prunable` says of the cache ``root``; only say it if ``dry``.

    Raises:
        InfraError: somebody builds or boots: what they use is not known; or some of
            it cannot be deleted.
    """
    with contextlib.nullcontext() if dry else cache.alone(root, "prune"):
        gone = prunable(
            entries(root), older_s=older_s, to_bytes=to_bytes, now=time.time()
        )
        stuck = [] if dry else [one.path for one in gone if not _delete(one.path)]
    if stuck:
        raise InfraError(
            f"{len(stuck)} of {len(gone)} entries cannot be deleted, first {stuck[0]}",
            hint="they are another user's: delete them as that one",
        )
    return gone


def _delete(path: Path) -> bool:
    """Delete ``path``, which is gone at once: nobody takes half of it for the whole.

    False if we may not.
    """
    going = path.with_name(f".going-{uuid.uuid4().hex}")
    try:
        path.rename(going)
        if going.is_dir():
            shutil.rmtree(going)
        else:
            going.unlink()
    except FileNotFoundError:  # somebody else was faster
        return True
    except OSError:
        return False
    return True
