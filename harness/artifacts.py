"""Artifacts: what one build left, in a store addressed by what went in.

The key is the hash of (tree content, final request, toolchain, recipe). An entry
appears whole or not at all: it is filled beside its place and renamed into it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from harness.errors import FormatError

MANIFEST = "manifest.json"


class Manifest(Struct, frozen=True):
    """What an entry of the store is, as saved beside the files.

    Attributes:
        key: content address.
        variant: name of the variant, for people.
        platform: where it is meant to boot.
        tree: what people call the source (``linux-source-6.12 6.12.117-1``).
        kernel_release: ``make kernelrelease``.
        toolchain: program -> version line (gcc, ld, pahole).
        modules: paths of .ko files below ``modules/``, sorted.
        objects: paths of .o files below ``objects/`` that carry ORC, sorted.
        sha256: file name -> hash, of vmlinux, vmlinux.o, bzImage and .config.
        seconds: how long the build took when it was made.
        compiled: how many objects it compiled.
    """

    key: str
    variant: str
    platform: str
    tree: str
    kernel_release: str
    toolchain: dict[str, str]
    modules: tuple[str, ...]
    objects: tuple[str, ...]
    sha256: dict[str, str]
    seconds: float
    compiled: int


class Artifacts(Struct, frozen=True):
    """One entry of the store: a directory and its manifest."""

    directory: Path
    manifest: Manifest

    @property
    def vmlinux(self) -> Path:
        """The linked kernel, ORC sorted."""
        return self.directory / "vmlinux"

    @property
    def vmlinux_o(self) -> Path:
        """The kernel before the final link (relocatable)."""
        return self.directory / "vmlinux.o"

    @property
    def bzimage(self) -> Path:
        """The bootable image."""
        return self.directory / "bzImage"

    @property
    def config(self) -> Path:
        """The final .config."""
        return self.directory / ".config"

    @property
    def cpufeatures(self) -> Path:
        """The tree's asm/cpufeatures.h, for feature names."""
        return self.directory / "cpufeatures.h"

    @property
    def log(self) -> Path:
        """The build log, whole."""
        return self.directory / "build.log"

    @property
    def modules(self) -> tuple[Path, ...]:
        """The modules, sorted."""
        return tuple(self.directory / "modules" / m for m in self.manifest.modules)

    @property
    def objects(self) -> tuple[Path, ...]:
        """The objects that carry ORC, sorted."""
        return tuple(self.directory / "objects" / o for o in self.manifest.objects)


def load(directory: Path) -> Artifacts:
    """Read the entry in ``directory``.

    Raises:
        FormatError: there is no manifest, or not one of ours.
    """
    path = directory / MANIFEST
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (OSError, ValueError) as exc:
        raise FormatError(
            f"{directory} is not a build of ours: {exc}",
            hint="orc-harness validate takes any kernel build directory instead",
        ) from exc
    return Artifacts(directory, manifest)


class Store(Struct, frozen=True):
    """The content-addressed store below ``root``."""

    root: Path

    def find(self, key: str) -> Artifacts | None:
        """Return the entry of ``key``, or None if it was never finished."""
        directory = self.root / key
        if not (directory / MANIFEST).exists():
            return None
        with contextlib.suppress(OSError):  # whose cache is pruned may see that
            os.utime(directory / MANIFEST)
        return load(directory)

    def keys(self) -> frozenset[str]:
        """Return the keys of all finished entries."""
        return frozenset(path.parent.name for path in self.root.glob(f"*/{MANIFEST}"))

    @contextlib.contextmanager
    def adding(self, key: str) -> Iterator[Path]:
        """Yield a directory to fill (``write_manifest`` last), then publish it.

        On any exception the directory is deleted whole: what an infrastructure
        failure left behind is poison.
        """
        scratch = self.root / f".{key}.{uuid.uuid4().hex}"
        scratch.mkdir(parents=True)
        try:
            yield scratch
            load(scratch)
            with contextlib.suppress(OSError):  # somebody else was first: same bytes
                scratch.replace(self.root / key)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Save ``manifest`` in ``directory``."""
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    (directory / MANIFEST).write_bytes(text + b"\n")
