"""Tree: the kernel source that a build reads, and the hash of what is in it.

By default Debian's, fetched and unpacked inside the toolchain image; else a user's
directory of any kind, through a snapshot (``snapshot.py``).
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
import time
from pathlib import Path

from msgspec import Struct

from harness import network
from harness.build.snapshot import Listing, list_source, snapshots, take
from harness.cache import cache_dir, locked, require_space
from harness.container import apt
from harness.container.image import Image
from harness.container.job import Engine, Limits, Mount, own
from harness.errors import InfraError, UserError
from harness.progress import Progress, silent

PACKAGE = "linux-source-6.12"
FETCH = Limits(timeout_s=1800)
SPACE = 3 << 30
KEPT_SNAPSHOTS = 4
KEPT_S = 86400.0
CHECKPOINTS = 145  # of 1000 tar records each; only progress depends on it
LANDMARKS = ("Kconfig", "Makefile", "arch/x86/Makefile", "kernel", "scripts")

_FETCH_SCRIPT = (
    apt.PRELUDE
    + r"""
out=$1 wanted=$2 known=$3
package=$wanted
if ! apt cache show "$package" > /dev/null 2>&1; then
    package=$(apt cache search --names-only '^linux-source-[0-9.]*$' \
        | sed 's/ .*//' | sort -t- -k3 -V | tail -n 1)
    test -n "$package" || { echo "no linux-source package: is there a mirror?"; exit 1; }
fi
version=$(apt cache policy "$package" | sed -n 's/^ *Candidate: //p')
if test "$known" = "$package $version"; then echo "@same"; exit; fi
cd "$work"
apt get download "$package" >&2
set -- "$work/$package"_*.deb
dpkg-deb --fsys-tarfile "$1" | tar -xO "./usr/src/$package.tar.xz" | xz -dc \
    | tar -x -C "$out" --strip-components=1 --no-same-owner \
        --checkpoint=1000 --checkpoint-action='echo=@checkpoint %u'
echo "@package $package $(dpkg-deb -f "$1" Version)"
"""
)


class Tree(Struct, frozen=True):
    """A source that nobody changes any more.

    Attributes:
        source: the directory to build from.
        digest: hash of its content.
        name: what people call it: ``linux-source-6.12 6.12.117-1``, or a path.
        note: what the user should be told about it, or empty.
    """

    source: Path
    digest: str
    name: str
    note: str = ""


def open_tree(
    engine: Engine,
    image: Image,
    source: Path | None = None,
    progress: Progress = silent,
    *,
    package: str = PACKAGE,
) -> Tree:
    """Return the user's tree ``source``, or the default one.

    Raises:
        UserError: ``source`` is no kernel tree.
        InfraError: the default one cannot be fetched, or the disk is full.
    """
    if source is None:
        return default_tree(engine, image, progress, package=package)
    return user_tree(source, progress)


def default_tree(
    engine: Engine,
    image: Image,
    progress: Progress = silent,
    *,
    package: str = PACKAGE,
) -> Tree:
    """Return Debian's source ``package``, fetching it unless it is in the cache.

    If Debian has it no more, its newest linux-source is taken, and ``note`` says so.
    """
    directory = cache_dir() / "trees" / package
    with locked(directory.with_name(f"{directory.name}.lock")):
        if not (text := kept(package)):
            text = _fetch(engine, image, package, directory, progress)
    note = "" if text.startswith(f"{package} ") else f"no {package}: took {text}"
    digest = hashlib.sha256(f"debian {text}".encode()).hexdigest()
    return Tree(directory / "source", digest, text, note)


def kept(package: str) -> str:
    """Return the name and version of Debian's source ``package`` in the cache, or ""."""
    name = cache_dir() / "trees" / package / "NAME"
    return name.read_text().strip() if name.exists() else ""


def refetch(
    engine: Engine, image: Image, package: str, progress: Progress = silent
) -> str:
    """Return :func:`kept` after fetching ``package`` again if Debian has a newer one.

    Nobody may be building from it.

    Raises:
        InfraError: it cannot be fetched; what is in the cache stays.
    """
    directory = cache_dir() / "trees" / package
    with locked(directory.with_name(f"{directory.name}.lock")):
        return _fetch(engine, image, package, directory, progress, kept(package))


def _fetch(
    engine: Engine,
    image: Image,
    package: str,
    directory: Path,
    progress: Progress,
    known: str = "",
) -> str:
    # Returns the name and version of what is there now; fetches nothing if that is known.
    network.require(f"the kernel source {package}")
    require_space(directory.parent, SPACE, "the kernel source")
    scratch = Path(tempfile.mkdtemp(dir=directory.parent, prefix=".fetching-"))
    try:
        source = scratch / "source"
        own_new(source, engine)
        mount = Mount(source, "/out", writable=True)
        lines = _FetchLines(progress, package)
        ended = engine.run(
            image.tag,
            ["sh", "-c", _FETCH_SCRIPT, "fetch", engine.path(mount), package, known],
            mounts=[mount],
            limits=FETCH,
            network=True,
            on_text=lines,
        )
        if known and lines.same and not ended.returncode:
            return known
        if ended.returncode or not (source / "Makefile").exists():
            raise InfraError(
                f"cannot fetch {package} (status {ended.returncode})\n{lines.tail}",
                hint="--tree DIR builds a tree that you have",
            )
        (scratch / "NAME").write_text(lines.name + "\n")
        shutil.rmtree(directory, ignore_errors=True)
        scratch.chmod(0o755)
        scratch.replace(directory)
        return lines.name
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def own_new(directory: Path, engine: Engine) -> None:
    """Make ``directory`` for the engine's user."""
    directory.mkdir(parents=True, exist_ok=True)
    own(directory, engine.user)


class _FetchLines:
    """Turns the fetch script's output into progress and the package's name."""

    def __init__(self, progress: Progress, package: str) -> None:
        self._progress = progress
        self._package = package
        self._text = ""
        self.name = package
        progress(f"fetching {package}")

    def __call__(self, text: str) -> None:
        self._text = (self._text + text)[-8000:]
        if checkpoints := re.findall(r"@checkpoint (\d+)", text):
            done = int(checkpoints[-1]) // 1000
            total = max(CHECKPOINTS, done)
            self._progress(f"unpacking {self._package}", done, total)
        if found := re.search(r"@package (\S+ \S+)\n", self._text):
            self.name = found[1]

    @property
    def same(self) -> bool:
        return "@same\n" in self._text

    @property
    def tail(self) -> str:
        return "\n".join(self._text.splitlines()[-15:])


def user_tree(source: Path, progress: Progress = silent) -> Tree:
    """Return a snapshot of ``source``: git, plain, dirty or built in place.

    Raises:
        UserError: it is no kernel tree, or changes while it is read.
    """
    root = source.absolute()
    directory = cache_dir() / "trees" / f"user-{name_of(root)}"
    hashes = directory / "hashes"
    listing = list_kernel(root, hashes, progress)
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / listing.digest[:16]
    with locked(directory / "lock"):
        if not target.is_dir():
            require_space(directory, SPACE, f"a snapshot of {root}")
            take(listing, target, progress, next(snapshots(directory), None))
            _require_unchanged(listing, hashes, target)
            _prune(directory)
    return Tree(target, listing.digest, str(root))


def name_of(root: Path) -> str:
    """Return what a directory of ours is called that is about the source ``root``."""
    return hashlib.sha256(str(root).encode()).hexdigest()[:16]


def list_kernel(root: Path, hashes: Path, progress: Progress = silent) -> Listing:
    """List the kernel source ``root``.

    Raises:
        UserError: it is no kernel tree.
    """
    require_kernel(root)
    progress(f"hashing {root}")
    listing = list_source(root, hashes)
    if "Kconfig" not in listing.files:
        raise UserError(
            f"git ignores the source in {root}",
            hint="look at the .gitignore files in it and above",
        )
    return listing


def require_kernel(root: Path) -> None:
    """Raise UserError unless ``root`` looks like the top of a Linux source."""
    missing = [name for name in LANDMARKS if not (root / name).exists()]
    if missing:
        raise UserError(
            f"{root} is no kernel tree: it has no {missing[0]}",
            hint="--tree takes the top directory of a Linux source",
        )


def _require_unchanged(before: Listing, hashes: Path, target: Path) -> None:
    if list_source(before.root, hashes).digest != before.digest:
        shutil.rmtree(target, ignore_errors=True)
        raise UserError(f"{before.root} was changed while it was copied; try again")


def _prune(directory: Path) -> None:
    """Forget old snapshots, but none that a running build may still read."""
    for old in list(snapshots(directory))[KEPT_SNAPSHOTS:]:
        manifest = old.with_suffix(".json")
        if time.time() - manifest.stat().st_mtime > KEPT_S:
            manifest.unlink()
            shutil.rmtree(old, ignore_errors=True)
