"""Collect: put what a build left into the store."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from harness.artifacts import Artifacts, Manifest, Store, load, write_manifest
from harness.build.workplace import Workplace
from harness.elf.file import parse_elf
from harness.errors import BuildError

CPUFEATURES = "arch/x86/include/asm/cpufeatures.h"
ORC_SECTION = ".orc_unwind"
# Built for another world than the kernel's own text, or only linked from others.
_NOT_OBJECTS = (
    "vmlinux.o",
    "arch/x86/boot/",
    "arch/x86/realmode/",
    "tools/",
    "scripts/",
)
_FILES = {
    "vmlinux": "vmlinux",
    "vmlinux.o": "vmlinux.o",
    "arch/x86/boot/bzImage": "bzImage",
    ".config": ".config",
    "System.map": "System.map",
}
_HASHED = ("vmlinux", "vmlinux.o", "bzImage", ".config")


Take = Callable[[Path, Path], object]


def collect(place: Workplace, store: Store, take: Take = shutil.move) -> Artifacts:
    """Fill the store's entry for ``place`` and return it.

    ``take`` moves a file, or copies it from an output directory that is kept.

    Raises:
        BuildError: make succeeded and left no kernel.
    """
    order = place.order
    place.progress(f"storing {order.variant.name}")
    with store.adding(order.key) as entry:
        modules = tuple(_modules(place.out, entry / "modules", take))
        objects = tuple(_objects(place.out, entry / "objects", take))
        for name, target in _FILES.items():
            if not (place.out / name).exists():
                raise BuildError(f"make succeeded and left no {name}")
            take(place.out / name, entry / target)
        shutil.copyfile(order.tree.source / CPUFEATURES, entry / "cpufeatures.h")
        shutil.copyfile(place.log, entry / "build.log")
        manifest = Manifest(
            key=order.key,
            variant=order.variant.name,
            platform=order.variant.platform.value,
            tree=order.tree.name,
            kernel_release=place.release,
            toolchain=order.image.identity,
            modules=modules,
            objects=objects,
            sha256={name: _sha256(entry / name) for name in _HASHED},
            seconds=round(time.monotonic() - place.started, 1),
            compiled=place.compiled,
        )
        write_manifest(entry, manifest)
    return load(store.root / order.key)


def _modules(out: Path, target: Path, take: Take) -> Iterator[str]:
    for module in sorted(out.rglob("*.ko")):
        yield _taken(module, out, target, take)


def _objects(out: Path, target: Path, take: Take) -> Iterator[str]:
    """Take the objects that objtool gave a table.

    Without IBT or LTO that is every object, and where it runs on vmlinux.o (v5.18
    and later) only those of modules.
    """
    for path in sorted(out.rglob("*.o")):
        name = path.relative_to(out).as_posix()
        if not name.startswith(_NOT_OBJECTS) and _has_orc(path):
            yield _taken(path, out, target, take)


def _has_orc(path: Path) -> bool:
    data = path.read_bytes()
    if ORC_SECTION.encode() not in data:
        return False  # most have not even the word
    return ORC_SECTION in parse_elf(np.frombuffer(data, np.uint8), path.name).names


def _taken(path: Path, out: Path, target: Path, take: Take) -> str:
    name = path.relative_to(out)
    (target / name).parent.mkdir(parents=True, exist_ok=True)
    take(path, target / name)
    return name.as_posix()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
