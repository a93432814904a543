"""Workplace: an order for a kernel, and the scratch directory it is filled in.

The output directory is fresh, and deleted whatever happens: what an infrastructure
failure left in it would make a plausible-looking wrong kernel. Only a failed build's
log is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct, field

from harness.build.tree import Tree
from harness.cache import cache_dir, require_space, try_locked
from harness.container.image import Image
from harness.container.job import Engine, Mount, own
from harness.errors import UserError
from harness.kconfig import Request, read_fragments
from harness.progress import Progress
from harness.variant import Variant

RECIPE_VERSION = "2"  # change it when the same input would give other artifacts
TARGETS = ("vmlinux", "bzImage", "modules")
SPACE = 2 << 30


class Limit(Struct, frozen=True):
    """What a build may take: jobs at once, and seconds in all."""

    jobs: int = 2
    timeout_s: float = 3600.0


class Order(Struct, frozen=True):
    """One build to do: everything that its key is made of, and where it happens."""

    tree: Tree
    variant: Variant
    image: Image
    requests: tuple[Request, ...]
    base: str
    limit: Limit = Limit()

    @property
    def key(self) -> str:
        """Hash all that decides what comes out."""
        parts = {
            "recipe": RECIPE_VERSION,
            "tree": self.tree.digest,
            "variant": [self.variant.name, self.variant.platform.value],
            "base": self.base,
            "requests": [str(request) for request in self.requests],
            "image": [self.image.tag, sorted(self.image.identity.items())],
            "targets": TARGETS,
        }
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def read_order(tree: Tree, variant: Variant, image: Image, limit: Limit) -> Order:
    """Read the variant's files into an order.

    Raises:
        UserError: a file is missing, or fragments contradict each other.
    """
    base = variant.base
    if isinstance(base, Path):
        try:
            base = base.read_text()
        except OSError as exc:
            raise UserError(f"cannot read {base}: {exc.strerror}") from exc
    requests = tuple(read_fragments(variant.fragments))
    return Order(tree, variant, image, requests, base, limit)


class Workplace(Struct):
    """A build in its scratch directory.

    Attributes:
        out: the output directory, seen by commands as ``path(out)``.
        release, config: known once it is configured.
        compiled: how many objects were compiled so far.
    """

    engine: Engine
    order: Order
    progress: Progress
    scratch: Path
    mounts: tuple[Mount, Mount, Mount]
    release: str = ""
    config: Mapping[str, str] = field(default_factory=dict)
    compiled: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def out(self) -> Path:
        """The output directory on the host."""
        return self.scratch / "out"

    @property
    def log(self) -> Path:
        """The log of everything that ran."""
        return self.scratch / "build.log"

    def paths(self) -> list[str]:
        """Where commands see the source and the output."""
        return [self.engine.path(mount) for mount in self.mounts[:2]]


@contextlib.contextmanager
def workplace(engine: Engine, order: Order, progress: Progress) -> Iterator[Workplace]:
    """Yield a fresh place to build in; it is deleted whole, the log is kept."""
    cache = cache_dir()
    sweep(cache / "build", order.key)
    require_space(cache / "build", SPACE, f"building {order.variant.name}")
    scratch = cache / "build" / f"{order.key}-{uuid.uuid4().hex[:8]}"
    place = furnish(engine, order, scratch, progress)
    try:
        yield place
    except BaseException:
        keep_log(place)
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def furnish(
    engine: Engine, order: Order, scratch: Path, progress: Progress
) -> Workplace:
    """Return a place to build in, whatever is in ``scratch`` already."""
    # A directory that one user filled breaks every compile of another.
    ccache = cache_dir() / f"ccache-{engine.user.replace(':', '-')}"
    for directory in (scratch / "out", ccache):
        directory.mkdir(parents=True, exist_ok=True)
        own(directory, engine.user)
    mounts = (
        Mount(order.tree.source, "/src"),
        Mount(scratch / "out", "/out", writable=True),
        Mount(ccache, "/ccache", writable=True),
    )
    return Workplace(engine, order, progress, scratch, mounts)


def sweep(builds: Path, ours: str) -> None:
    """Delete what builds left that were killed: nobody holds their lock.

    We hold the lock of the key ``ours`` ourselves, and have left nothing yet.
    """
    for scratch in builds.glob("*-*/"):
        key = scratch.name.partition("-")[0]
        with try_locked(builds / f"{key}.lock") as free:
            if free or key == ours:
                shutil.rmtree(scratch, ignore_errors=True)


def kept_log(order: Order) -> Path:
    """Return where the log of a failed build is kept."""
    return cache_dir() / "logs" / f"{order.variant.name}-{order.key[:12]}.log"


def keep_log(place: Workplace) -> None:
    """Keep the log of a build that failed, where messages say."""
    if place.log.exists():
        kept = kept_log(place.order)
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(place.log, kept)


def environment(ccache: str) -> dict[str, str]:
    """Return what a build's commands see: the same everywhere, so that bytes are."""
    return {
        "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 1970",
        "KBUILD_BUILD_USER": "orc",
        "KBUILD_BUILD_HOST": "harness",
        "KBUILD_BUILD_VERSION": "1",
        "LOCALVERSION": "",
        "CCACHE_DIR": ccache,
        "CCACHE_NOHASHDIR": "1",
        "CCACHE_COMPILERCHECK": "content",
        # Trusts the compiler's own list of headers; else every miss is preprocessed
        # twice, which is two fifths more work for a cold build.
        "CCACHE_DEPEND": "1",
        "CCACHE_TEMPDIR": f"{ccache}/tmp",
        "LC_ALL": "C",
    }
