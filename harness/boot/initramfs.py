"""Initramfs: the root file system of a guest, as a cpio archive made here.

The archive is uncompressed newc (the kernel's initramfs buffer format), so that
every kernel with BLK_DEV_INITRD takes it and none spends time on unpacking. The
programs in it are ours (``guest/*.c``), compiled in the machine image.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from msgspec import Struct

from harness.boot.compiler import compiled
from harness.container.job import Engine
from harness.elf.file import read_file

GUEST = Path(__file__).resolve().parent / "guest"
COMPILE = ("gcc", "-std=gnu11", "-Wall", "-Werror", "-Os", "-static")
MODULES_LIMIT = 40
_NEEDS_NO_OTHER = b"\0depends=\0"  # in .modinfo
_FLAT = "-Wl,--oformat=binary,-Ttext=0,-e,start,--build-id=none"
# name -> further arguments, and sources
_PROGRAMS = {
    "init": (
        ("-s", "-Wno-unused-result"),
        (
            *("init.c", "workload.c", "events.c", "state.c", "memory.c"),
            *("calls.c", "trace.c", "tree.c"),
        ),
    ),
    "host": (("-s",), ("host.c",)),
    "probe": (("-nostdlib", _FLAT), ("probe.S",)),
}
_TRAILER = "TRAILER!!!"


def cpio(files: Mapping[str, bytes]) -> bytes:
    """Return a newc archive of ``files`` (path -> content), all executable.

    The directories that the paths need, and the mount points /dev and /proc, are
    made. The result's size is a multiple of 512, so that archives can be joined.
    """
    directories = {"dev", "proc"} | {
        str(parent)
        for path in files
        for parent in PurePosixPath(path).parents
        if str(parent) != "."
    }
    parts = [
        _entry(path, b"", stat.S_IFDIR | 0o755, index)
        for index, path in enumerate(sorted(directories), 1)
    ]
    first = len(parts) + 1
    parts += [
        _entry(path, data, stat.S_IFREG | 0o755, index)
        for index, (path, data) in enumerate(sorted(files.items()), first)
    ]
    parts.append(_entry(_TRAILER, b"", 0, 0))
    archive = b"".join(parts)
    return archive + bytes(-len(archive) % 512)


def _entry(path: str, data: bytes, mode: int, inode: int) -> bytes:
    name = path.encode() + b"\0"
    numbers = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % number for number in numbers) + name
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


class Toolbox(Struct, frozen=True):
    """Where guest programs are compiled and machines run: an engine and an image."""

    engine: Engine
    image: str

    @property
    def identity(self) -> str:
        """What the image is, for cache keys."""
        return f"{self.engine.runtime}:{self.engine.image_id(self.image)}"


def program(toolbox: Toolbox, name: str) -> bytes:
    """Return ``guest``'s program ``name``, compiled once.

    ``init`` and ``host`` are static programs, ``probe`` is a firmware image.

    Raises:
        InfraError: the image's compiler does not compile it.
    """
    arguments, sources = _PROGRAMS[name]
    argv = (*COMPILE, *arguments)
    return compiled(toolbox.engine, toolbox.image, name, argv, GUEST, sources)


def guest(init: bytes, modules: Sequence[Path]) -> bytes:
    """Return the archive of the guest under test: init, and modules to load."""
    files = {f"modules/{name}": data for name, data in taken(modules).items()}
    return cpio({"init": init, **files})


def taken(modules: Sequence[Path]) -> dict[str, bytes]:
    """Return the modules that a guest gets, by file name.

    They may be packed; the guest gets them plain. Of a distribution's thousands it gets
    the :data:`MODULES_LIMIT` smallest that need no other module.
    """
    files: dict[str, bytes] = {}
    for path in sorted(modules, key=lambda path: (path.stat().st_size, path.name)):
        data = read_file(path).tobytes()
        if len(modules) <= MODULES_LIMIT or _NEEDS_NO_OTHER in data:
            name = path.name.partition(".ko")[0]
            files[f"{name}.ko"] = data
        if len(files) == MODULES_LIMIT:
            break
    return files
