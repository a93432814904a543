"""Initramfs: the root file system of a guest, as a cpio archive made here.

The archive is uncompressed newc (the kernel's initramfs buffer format), so that
every kernel with BLK_DEV_INITRD takes it and none spends time on unpacking. The
programs in it are ours (``guest/*.c``), compiled in the machine image and cached
by the hash of source, compiler arguments and image.
"""

from __future__ import annotations

import hashlib
import shutil
import stat
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from harness import cache
from harness.container.job import Engine, Limits, Mount
from harness.elf.file import read_file
from harness.errors import InfraError

GUEST = Path(__file__).resolve().parent / "guest"
COMPILE = ("gcc", "-std=gnu11", "-Wall", "-Werror", "-Os", "-static")
COMPILE_S = 120.0
MODULES_LIMIT = 40
_NEEDS_NO_OTHER = b"\0depends=\0"  # in .modinfo
_FLAT = "-Wl,--oformat=binary,-Ttext=0,-e,start,--build-id=none"
# name -> further arguments, and sources
_PROGRAMS = {
    "init": (("-s",), ("init.c", "workload.c", "events.c")),
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


@dataclass(frozen=True, slots=True)
class Toolbox:
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
    digest = hashlib.sha256(repr((COMPILE, _PROGRAMS[name], toolbox.identity)).encode())
    for source in sorted(GUEST.iterdir()):
        digest.update(source.name.encode() + source.read_bytes())
    directory = cache.cache_dir() / "guest"
    path = directory / f"{name}-{digest.hexdigest()[:20]}"
    with cache.locked(directory / ".lock"):
        if not path.exists():
            _compile(toolbox, name, path)
        return path.read_bytes()


def _compile(toolbox: Toolbox, name: str, result: Path) -> None:
    engine = toolbox.engine
    arguments, sources = _PROGRAMS[name]
    with tempfile.TemporaryDirectory(prefix="orc-cc-") as scratch:
        # A copy: the container's user may not be allowed to read the original.
        for source in GUEST.iterdir():
            copy = Path(scratch) / source.name
            shutil.copyfile(source, copy)
            copy.chmod(0o644)
        mount = Mount(Path(scratch), "/guest", writable=True)
        where = engine.path(mount)
        text: list[str] = []
        done = engine.run(
            toolbox.image,
            [
                *(*COMPILE, *arguments, "-o", f"{where}/{name}"),
                *(f"{where}/{source}" for source in sources),
            ],
            mounts=(mount,),
            limits=Limits(timeout_s=COMPILE_S),
            on_text=text.append,
        )
        if done.returncode or done.timed_out:
            raise InfraError(
                f"cannot compile the guest's {name} in {toolbox.image} "
                f"(exit {done.returncode}, deadline {COMPILE_S:g} s)\n{''.join(text)}",
                hint="it needs gcc and libc6-dev; orc-harness doctor checks for them",
            )
        partial = result.with_suffix(".partial")
        shutil.copyfile(Path(scratch) / name, partial)
        partial.replace(result)


def guest(init: bytes, modules: Sequence[Path]) -> bytes:
    """Return the archive of the guest under test: init, and modules to load.

    Modules may be packed; the guest gets them plain. Of a distribution's thousands
    it gets the :data:`MODULES_LIMIT` smallest that need no other module.
    """
    files = {"init": init}
    for path in sorted(modules, key=lambda path: (path.stat().st_size, path.name)):
        data = read_file(path).tobytes()
        if len(modules) <= MODULES_LIMIT or _NEEDS_NO_OTHER in data:
            name = path.name.partition(".ko")[0]
            files[f"modules/{name}.ko"] = data
        if len(files) > MODULES_LIMIT:
            break
    return cpio(files)
