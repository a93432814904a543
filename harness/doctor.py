"""Doctor: what this machine can and cannot do, why, and what mends it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from harness import cache, run
from harness.boot.initramfs import Toolbox
from harness.boot.kvm_probe import reason_against
from harness.boot.machine import MachineConfig
from harness.container import image
from harness.container.engine import connect
from harness.container.job import Engine
from harness.errors import HarnessError
from harness.text.decode import slow_because

NEEDED_MEMORY_MB = 3072
NEEDED_DISK_MB = 6144
MIN_PYTHON = (3, 11)
NEEDED = frozenset({"python", "memory", "disk", "containers"})  # by the main job


class Check(Struct, frozen=True):
    """One thing that the work needs.

    Attributes:
        name: what was looked at.
        can: what is possible with it.
        good: whether it is.
        seen: what was found.
        mend: the command that mends it, when it is not good.
    """

    name: str
    can: str
    good: bool
    seen: str
    mend: str = ""


def examine(runtime: str = "auto") -> Iterator[Check]:
    """Yield every check, the cheap ones first; nothing is installed or changed."""
    yield _python()
    yield _memory()
    yield _disk()
    yield _tool("mmdebstrap", "make images where no registry answers")
    yield _tool("zstd", "read modules that are .ko.zst")
    yield _decoder()
    try:
        with connect(runtime) as engine:
            yield Check(
                "containers", "build and boot", True, f"{engine.runtime} answers"
            )
            yield from _images(engine)
            yield _kvm(engine)
    except HarnessError as exc:
        yield Check("containers", "build and boot", False, exc.message, "./ci/host")


def _python() -> Check:
    seen = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= MIN_PYTHON
    return Check("python", "run at all", good, seen, "apt-get install python3")


def _memory() -> Check:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    return Check(
        "memory",
        "build, and boot two guests at once",
        total >= NEEDED_MEMORY_MB,
        f"{total} MB, {os.cpu_count()} cores",
        f"use a machine with at least {NEEDED_MEMORY_MB} MB",
    )


def _disk() -> Check:
    directory = cache.cache_dir()
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(existing).free >> 20
    ours = os.access(existing, os.W_OK)
    return Check(
        "disk",
        "keep images, trees and builds",
        ours and free >= NEEDED_DISK_MB,
        f"{free} MB free at {directory}{'' if ours else ', not to be written by us'}",
        "free space, or set ORC_HARNESS_CACHE to another disk",
    )


def _tool(name: str, can: str) -> Check:
    path = run.which(name)
    mend = f"apt-get install {name}"
    return Check(name, can, path is not None, path or "not installed", mend)


def _decoder() -> Check:
    reason = slow_because()
    return Check(
        "zydis",
        "decode several times faster",
        not reason,
        f"capstone decodes: {reason}" if reason else "built",
        "apt-get install gcc libc6-dev libzydis-dev, then ./ci/env",
    )


def _images(engine: Engine) -> Iterator[Check]:
    for recipe, can in ((image.toolchain(), "build"), (image.machine(), "boot")):
        there = engine.has_image(recipe.tag)
        yield Check(
            f"image {recipe.name}",
            can,
            there,
            "there" if there else "not made yet",
            "none needed: the first build or boot makes it",
        )


def _kvm(engine: Engine) -> Check:
    can = "boot KVM guests on this host"
    mend = "none needed: they boot nested, in software"
    if not Path("/dev/kvm").exists():
        return Check("kvm", can, False, "no /dev/kvm", mend)
    tag = image.machine().tag
    if not engine.has_image(tag):
        return Check("kvm", can, False, "/dev/kvm is there, not tried yet", mend)
    against = reason_against(Toolbox(engine, tag), MachineConfig().qemu)
    seen = against.splitlines()[0] if against else "a guest made progress"
    return Check("kvm", can, not against, seen, mend)
