"""Snapshot: a copy of somebody's kernel source that we own and never change.

The user's tree is only read. What git tracks and what it does not know yet is taken;
what a build left in it (git's ignored files) is not, since kbuild refuses a source
that was built in place. The content has one hash, whether it is committed, dirty or
in no repository at all.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from harness import run
from harness.errors import InfraError, UserError
from harness.progress import Progress

GIT_TIMEOUT_S = 300
_REPORT_EVERY = 2000
_EXECUTABLE, _REGULAR, _SYMLINK, _SUBMODULE = "100755", "100644", "120000", "160000"


# Of the top: every directory but hidden ones, and files as a source names them.
_TOP_RULES = ("!/*/", "/.*/", "!/[A-Z]*", "/Module.symvers", "/System.map")


class Listing(Struct, frozen=True):
    """The files of a source: path -> ``mode blob``, as git would write them."""

    root: Path
    files: dict[str, str]

    @property
    def digest(self) -> str:
        """Hash the content; equal trees have equal digests wherever they lie."""
        total = hashlib.sha256()
        for path in sorted(self.files):
            total.update(
                f"{self.files[path]} {path}\0".encode(errors="surrogateescape")
            )
        return total.hexdigest()


def list_source(root: Path, cache: Path) -> Listing:
    """List the source in ``root``; hashes of unchanged files come from ``cache``.

    Raises:
        InfraError: git is missing or does not answer.
    """
    if _is_worktree(root):
        return _list_git(root, cache)
    with tempfile.TemporaryDirectory(prefix="orc-harness-") as scratch:
        # An empty repository applies the tree's own .gitignore files to a directory.
        run.check(["git", "init", "-q", "--bare", scratch], timeout_s=GIT_TIMEOUT_S)
        options = ("--others", *_excludes(root), "-z")
        others = _git(root, "ls-files", *options, git_dir=Path(scratch))
    paths = [path for path in others.split("\0") if path and not _is_debris(path)]
    return Listing(root, _hash_files(root, paths, cache))


def _is_worktree(root: Path) -> bool:
    if not (root / ".git").exists():
        return False  # a plain directory, maybe inside somebody's repository
    top = run.run(_git_argv(root, "rev-parse", "--show-toplevel"), timeout_s=60)
    return top.returncode == 0 and Path(top.output.strip()) == root.resolve()


def _is_debris(path: str) -> bool:
    return path.startswith((".git/", "debian/build/"))


def _list_git(root: Path, cache: Path) -> Listing:
    """List index and worktree: tracked, changed and new files, less deleted ones."""
    files: dict[str, str] = {}
    for line in _git(root, "ls-files", "--stage", "-z").split("\0"):
        if line:
            mode, blob, rest = line.split(" ", 2)
            if mode != _SUBMODULE:
                files[rest.partition("\t")[2]] = f"{mode} {blob}"
    options = ("--modified", "--deleted", "--others", *_excludes(root), "-z")
    touched = {path for path in _git(root, "ls-files", *options).split("\0") if path}
    present = [p for p in sorted(touched) if os.path.lexists(root / p)]
    for path in touched:
        files.pop(path, None)
    files.update(_hash_files(root, present, cache))
    return Listing(root, files)


def _excludes(root: Path) -> list[str]:
    """Return the options that leave build products out, and nothing else.

    Debian's .gitignore ends with a rule against everything at the top, since their
    repository holds the packaging only; it is overruled for what a source has there.
    """
    with contextlib.suppress(OSError):
        if "/*" in (root / ".gitignore").read_text().splitlines():
            return ["--exclude-standard", *(f"--exclude={rule}" for rule in _TOP_RULES)]
    return ["--exclude-standard"]


def _git(root: Path, *arguments: str, git_dir: Path | None = None) -> str:
    return run.check(
        _git_argv(root, *arguments, git_dir=git_dir),
        timeout_s=GIT_TIMEOUT_S,
        env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C.UTF-8"},
        hint="is git installed, and the repository intact?",
    )


def _git_argv(root: Path, *arguments: str, git_dir: Path | None = None) -> list[str]:
    # Somebody else's repository is only read, so its owner does not matter.
    argv = ["git", "-c", "safe.directory=*", "-c", "core.quotePath=off"]
    if git_dir is not None:
        argv += [f"--git-dir={git_dir}", f"--work-tree={root}"]
    return [*argv, "-C", str(root), *arguments]


def _hash_files(root: Path, paths: Sequence[str], cache: Path) -> dict[str, str]:
    """Hash files as git does; those of known size and time are not read again."""
    known = load_files(cache)
    # of 86,000 a thread each, or a Path, is most of what an edit waits for
    fresh = {
        path: kept
        for path in paths
        if (kept := known.get(path, ""))
        and kept.partition(" ")[0] == _stamp(os.lstat(f"{root}/{path}"))
    }
    rest = [path for path in paths if path not in fresh]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        hashed = pool.map(hash_file, (root / path for path in rest))
        for path, (stamp, entry) in zip(rest, hashed, strict=True):
            fresh[path] = f"{stamp} {entry}"
    if len(paths) > _REPORT_EVERY and fresh != known:
        keep_files(fresh, cache)
    return {path: kept.partition(" ")[2] for path, kept in fresh.items()}


def load_files(cache: Path) -> dict[str, str]:
    """Read a map that was kept; empty if there is none, or it is damaged."""
    try:
        return msgspec.json.decode(cache.read_bytes(), type=dict[str, str])
    except (OSError, ValueError):
        return {}


def keep_files(files: dict[str, str], path: Path) -> None:
    """Write a map to be loaded again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(files))


def _stamp(found: os.stat_result) -> str:
    return f"{found.st_size}.{found.st_mtime_ns}.{found.st_ino}"


def hash_file(path: Path) -> tuple[str, str]:
    """Return (what tells that it is unchanged, ``mode blob``)."""
    found = path.lstat()
    stamp = _stamp(found)
    if path.is_symlink():
        # as it is written: pathlib would tidy it
        mode, data = _SYMLINK, os.fsencode(os.readlink(path))  # noqa: PTH115 - not tidied
    else:
        mode = _EXECUTABLE if found.st_mode & 0o100 else _REGULAR
        data = path.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False)
    return stamp, f"{mode} {blob.hexdigest()}"


def take(
    listing: Listing, target: Path, progress: Progress, previous: Path | None = None
) -> None:
    """Copy the files of ``listing`` to ``target``, all or none, with their times.

    Every user can read the copy, whatever the umask and the modes of the original:
    the user of a container does.

    Files that ``previous`` (another snapshot of ours) has unchanged are linked, not
    copied: an edit costs one file, and keeps make's view of what is new.
    """
    manifest = target.with_suffix(".json")
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=".taking-"))
    try:
        old = {} if previous is None else load_files(previous.with_suffix(".json"))
        for done, (path, entry) in enumerate(listing.files.items()):
            if done % _REPORT_EVERY == 0:
                progress("copying the source", done, len(listing.files))
            same = previous if previous and old.get(path) == entry else None
            place(listing.root / path, scratch / path, same and same / path)
        _open_directories(scratch)
        keep_files(listing.files, manifest)
        with contextlib.suppress(OSError):  # another process was first: same content
            scratch.replace(target)
    except FileNotFoundError as exc:
        raise UserError(
            f"{listing.root} changes while it is read: {exc.filename} went away"
        ) from exc
    except OSError as exc:
        raise InfraError(f"cannot copy {listing.root} to {target}: {exc}") from exc
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def place(source: Path, target: Path, linked: Path | None = None) -> None:
    """Copy ``source`` for every user to read; or link ``linked``, which is the same."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if linked is not None:
        with contextlib.suppress(OSError):
            os.link(linked, target, follow_symlinks=False)
            return
    shutil.copy2(source, target, follow_symlinks=False)
    if not target.is_symlink():
        mode = stat.S_IMODE(target.stat().st_mode)
        target.chmod(mode | (0o555 if mode & stat.S_IXUSR else 0o444))


def _open_directories(root: Path) -> None:
    for directory, _, _ in os.walk(root):
        Path(directory).chmod(0o755)


def snapshots(directory: Path) -> Iterator[Path]:
    """Yield the snapshots in ``directory``, newest first."""
    manifests = sorted(
        directory.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True
    )
    yield from (m.with_suffix("") for m in manifests if m.with_suffix("").is_dir())
