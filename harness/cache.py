"""Cache: the one directory that holds what took long to make.

``$ORC_HARNESS_CACHE``, else ``$XDG_CACHE_HOME/orc-harness``, else
``~/.cache/orc-harness``. Everything below it can be deleted at any time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from harness.errors import InfraError

CACHE_VARIABLE = "ORC_HARNESS_CACHE"
_HELD = "in-use.lock"
_holding: list[int] = []  # open as long as we live


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the cache directory that ``environ`` names (it may not exist yet)."""
    if named := environ.get(CACHE_VARIABLE):
        return Path(named).absolute()
    base = Path(environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # which XDG says to ignore
        base = Path(environ.get("HOME", "/")) / ".cache"
    return base.absolute() / "orc-harness"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``path``; others wait. Released if we die."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def try_locked(path: Path) -> Iterator[bool]:
    """Yield whether the lock on ``path`` was free; if so, it is held meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def require_space(directory: Path, size_bytes: int, purpose: str) -> None:
    """Raise InfraError unless ``directory``'s file system has room for ``purpose``."""
    directory.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(directory).free
    if free < size_bytes:
        raise InfraError(
            f"{directory} has {free >> 20} MB free, {purpose} needs "
            f"{size_bytes >> 20} MB",
            hint="free some space, or set ORC_HARNESS_CACHE to another disk",
        )


def hold(root: Path | None = None) -> None:
    """Say, until this process ends, that what is in the cache is in use."""
    path = (root or cache_dir()) / _HELD
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # no file object: what ends it at exit warns that nobody has closed it
        lock = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    except OSError:
        return  # whoever writes to it says why
    fcntl.flock(lock, fcntl.LOCK_SH)
    _holding.append(lock)


@contextlib.contextmanager
def alone(root: Path, what: str) -> Iterator[None]:
    """Let nobody hold the cache ``root`` meanwhile, to do ``what`` with it.

    Raises:
        InfraError: somebody builds or boots: what they use is not known.
    """
    with try_locked(root / _HELD) as free:
        if not free:
            raise InfraError(
                f"{root} is in use: somebody builds or boots with it",
                hint=f"{what} it when they have ended",
            )
        yield
