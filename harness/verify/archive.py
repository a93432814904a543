"""Archive: the verdicts that were given before, found by what they were given on.

A key is the hash of everything that a verdict depends on: the file's bytes
(:mod:`harness.elf.digest`), its name, what the caller knew besides, the variables that
tell us how, our own code and the libraries that read kernels. So nothing is ever stale, and nothing needs deleting
but what older versions of us left.

An entry is written whole or not at all and carries its own hash: one that is damaged,
or was written by somebody else, is as good as none.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import os
import pickle
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from msgspec.structs import replace

import harness
from harness.cache import CACHE_VARIABLE, cache_dir
from harness.config_file import VARIABLE as CONFIG_VARIABLE
from harness.errors import HarnessError
from harness.network import OFFLINE
from harness.verify.verdict import Checked

KEPT_VERSIONS = 3  # of our code; people bisect with several
# Where things are and may come from, not how they are judged.
_NO_MATTER = (CACHE_VARIABLE, CONFIG_VARIABLE, OFFLINE)
_HASH_BYTES = hashlib.sha256().digest_size


def key(paths: Sequence[Path], known: object) -> str | None:
    """Name the verdicts on ``paths``, given what is ``known`` besides.

    The representation (``repr``) of what is known must tell all of it. None if a
    file cannot be read.
    """
    from harness.elf.digest import digest  # numpy: not where a forerunner does it

    try:
        files = [f"{digest(path)} {path.name}" for path in paths]
    except HarnessError:
        return None  # whoever validates it says why
    settings = {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith("ORC_HARNESS_") and name not in _NO_MATTER
    }
    told = "\0".join((*files, repr(known), repr(settings)))
    return hashlib.sha256(told.encode()).hexdigest()


def recall(name: str | None, paths: Sequence[Path]) -> list[Checked]:
    """Return the verdicts ``name`` on ``paths``; none if there are no sound ones."""
    if name is None:
        return []
    try:
        path = _directory() / name
        entry = path.read_bytes()
        ours = path.stat().st_uid == os.geteuid()
    except OSError:
        return []
    body = entry[_HASH_BYTES:]
    if not ours or hashlib.sha256(body).digest() != entry[:_HASH_BYTES]:
        return []
    return [
        Checked(tuple(paths[at] for at in places), replace(verdict, cached=True))
        for places, verdict in pickle.loads(body)
    ]


def remember(
    name: str | None, paths: Sequence[Path], checked: Iterable[Checked]
) -> None:
    """Keep the verdicts that ``name`` stands for, unless there is an error.

    A full or read-only disk only means that there is no archive.
    """
    entry = [(tuple(map(paths.index, c.paths)), c.verdict) for c in checked]
    if name is None or not all(verdict for _, verdict in entry):
        return
    body = pickle.dumps(entry)
    directory = _directory()
    fresh = directory / f".{os.urandom(8).hex()}"
    try:
        if not directory.exists():
            directory.mkdir(parents=True, exist_ok=True)
            _forget(directory.parent)
        fresh.write_bytes(hashlib.sha256(body).digest() + body)
        fresh.replace(directory / name)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink()


def _directory() -> Path:
    return cache_dir() / "verdicts" / code_version()


def _forget(versions: Path) -> None:
    """Delete what versions of us left that were not used for longest."""
    by_age = sorted(versions.iterdir(), key=lambda path: -path.stat().st_mtime_ns)
    for old in by_age[KEPT_VERSIONS:]:
        shutil.rmtree(old, ignore_errors=True)


@functools.cache
def code_version() -> str:
    """Return the hash of all that judges: our modules, and the libraries they use."""
    import numpy as np

    hashed = hashlib.sha256(np.__version__.encode())
    for path in sorted(Path(harness.__file__).parent.rglob("*.py")):
        hashed.update(path.read_bytes())
    for path in _libraries():
        seen = path.stat()
        hashed.update(f"{path} {seen.st_size} {seen.st_mtime_ns}".encode())
    return hashed.hexdigest()[:32]


def _libraries() -> list[Path]:
    """Return the decoders' binaries: ours, if it is built, and capstone's."""
    roots = [Path(harness.__file__).parent / "text"]
    if (found := importlib.util.find_spec("capstone")) and found.origin:
        roots.append(Path(found.origin).parent / "lib")
    return sorted(path for root in roots for path in root.glob("*.so*"))
