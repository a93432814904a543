"""Live: a copy of somebody's kernel source that follows their edits.

A snapshot (``snapshot.py``) is another directory for each content; this is one, whose
files are replaced as those of the original change. Each file that is replaced is new
to make, whatever time the original has (``git stash``, ``cp -p``), so that an output
directory can be kept beside it (``kept.py``).
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from harness.build.snapshot import (
    Listing,
    hash_file,
    keep_files,
    load_files,
    place,
    snapshots,
    take,
)
from harness.build.tree import SPACE, Tree, list_kernel, name_of
from harness.cache import cache_dir, locked, require_space, try_locked
from harness.errors import InfraError, UserError
from harness.progress import Progress, silent


class Live(Struct, frozen=True):
    """A source that stays as it is while the block that made it lasts.

    Attributes:
        tree: what is built; its name is the original's path.
        files: path -> ``mode blob``, of all of it.
        directory: ours; what is built of the tree is kept in it.
    """

    tree: Tree
    files: dict[str, str]
    directory: Path


@contextlib.contextmanager
def following(source: Path, progress: Progress = silent) -> Iterator[Live]:
    """Yield a copy of ``source`` as it is now; nobody else may change it meanwhile.

    Raises:
        UserError: it is no kernel tree, or changes while it is read.
        InfraError: the disk is full.
    """
    root = source.absolute()
    directory = cache_dir() / "live" / name_of(root)
    lock = directory / "lock"
    with try_locked(lock) as free:
        if not free:
            progress(f"waiting for another build of {root}")
    with locked(lock):
        listing = list_kernel(root, directory / "hashes", progress)
        copy = directory / "source"
        try:
            _follow(listing, copy, progress)
        except FileNotFoundError as exc:
            raise UserError(
                f"{root} changes while it is read: {exc.filename} went away"
            ) from exc
        except OSError as exc:
            raise InfraError(f"cannot copy {root} to {copy}: {exc}") from exc
        tree = Tree(copy, listing.digest, str(root))
        yield Live(tree, listing.files, directory)


def _follow(listing: Listing, copy: Path, progress: Progress) -> None:
    """Make ``copy`` what ``listing`` says; its manifest is there while it is true."""
    manifest = copy.with_suffix(".json")
    known = load_files(manifest) if copy.is_dir() else {}
    manifest.unlink(missing_ok=True)
    if not known:
        for out in copy.parent.glob("out-*"):  # its objects may be newer than the copy
            shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(copy, ignore_errors=True)
        require_space(copy.parent, SPACE, f"a copy of {listing.root}")
        shared = cache_dir() / "trees" / f"user-{copy.parent.name}"
        take(listing, copy, progress, next(snapshots(shared), None))
        manifest.unlink()
        known = {path: hash_file(copy / path)[1] for path in listing.files}
    try:
        for path in known.keys() - listing.files.keys():
            _forget(copy, path)
            del known[path]
        for path, entry in listing.files.items():
            if known.get(path) != entry:
                known[path] = _renew(listing.root / path, copy / path)
                _require_same(listing, path, known[path])
    finally:
        keep_files(known, manifest)


def _forget(copy: Path, path: str) -> None:
    (copy / path).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # the first that is not empty
        (copy / path).parent.rmdir()


def _renew(source: Path, target: Path) -> str:
    """Copy a file with the time of now; return its ``mode blob``.

    The old one may be linked from a snapshot: it is replaced, never written.
    """
    fresh = target.with_name(f"{target.name}.fresh")
    fresh.unlink(missing_ok=True)
    place(source, fresh)
    os.utime(fresh, follow_symlinks=False)
    fresh.replace(target)
    return hash_file(target)[1]


def _require_same(listing: Listing, path: str, entry: str) -> None:
    if entry != listing.files[path]:
        raise UserError(f"{listing.root}/{path} was changed while it was copied")
