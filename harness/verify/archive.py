"""Archive: the verdicts that were given before, found by what they were given on.

A key is the hash of everything that a verdict depends on: the file's bytes
(:mod:`harness.elf.digest`), its name, what the caller knew besides, our own code and
the libraries that read kernels. So nothing is ever stale, and nothing needs deleting
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
import uuid
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

import harness
from harness.cache import cache_dir
from harness.elf.digest import digest
from harness.errors import HarnessError
from harness.verify.verdict import Verdict

KEPT_VERSIONS = 3  # of our code; people bisect with several
_HASH_BYTES = hashlib.sha256().digest_size


def key(path: Path, known: Iterable[object]) -> str | None:
    """Name the verdict on ``path``, given what is ``known`` besides; None if unreadable.

    The representation (``repr``) of each thing known must tell all of it.
    """
    try:
        content = digest(path)
    except HarnessError:
        return None  # whoever validates it says why
    told = "\0".join((content, path.name, *map(repr, known)))
    return hashlib.sha256(told.encode()).hexdigest()


def recall(name: str | None) -> Verdict | None:
    """Return the verdict ``name``, or None if there is no sound one."""
    if name is None:
        return None
    try:
        path = _directory() / name
        entry = path.read_bytes()
        ours = path.stat().st_uid == os.geteuid()
    except OSError:
        return None
    body = entry[_HASH_BYTES:]
    if not ours or hashlib.sha256(body).digest() != entry[:_HASH_BYTES]:
        return None
    verdict = pickle.loads(body)
    return replace(verdict, cached=True) if isinstance(verdict, Verdict) else None


def remember(name: str | None, verdict: Verdict) -> None:
    """Keep ``verdict`` as ``name``; a full or read-only disk only means no archive."""
    if name is None:
        return
    body = pickle.dumps(verdict)
    directory = _directory()
    fresh = directory / f".{uuid.uuid4().hex}"
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
