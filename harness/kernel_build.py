"""KernelBuild: what there is to validate in a directory that somebody built in.

Any of: a build directory (in place or ``O=``), an entry of our store, a directory
of modules, a single file.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from harness.errors import UserError

MODULE_SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")
BZIMAGE = "arch/x86/boot/bzImage"
_IMAGE = re.compile(r"^(vmlinu[xz]|bzImage)-")
_SKIPPED = {".git", "Documentation", "scripts", "tools", "certs", "source"}


class KernelBuild(Struct, frozen=True):
    """The files found; every tuple is sorted.

    Attributes:
        root: what was asked for.
        kernels: vmlinux, bzImage or vmlinuz files: linked kernels.
        relocatables: vmlinux.o and single objects.
        modules: .ko files, compressed or not.
        config: the .config, if there is one.
        cpufeatures: asm/cpufeatures.h, if the source is at hand.
        bzimage: the bootable image, if there is one.
    """

    root: Path
    kernels: tuple[Path, ...]
    relocatables: tuple[Path, ...]
    modules: tuple[Path, ...]
    config: Path | None
    cpufeatures: Path | None
    bzimage: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything to validate, kernels first."""
        return (*self.kernels, *self.relocatables, *self.modules)


class NothingThere(UserError):
    """The path exists, and holds nothing to validate."""


def find_each(paths: Iterable[Path]) -> tuple[list[KernelBuild], dict[Path, str]]:
    """Look at all ``paths``; return what is there, and why nothing is in the others.

    Raises:
        UserError: one does not exist, or all hold nothing to validate.
    """
    builds, without = [], {}
    last: NothingThere | None = None
    for path in paths:
        try:
            builds.append(find(path))
        except NothingThere as exc:
            without[path], last = exc.message, exc
    if last is not None and not builds:
        raise last
    return pair(builds), without


def find(path: Path) -> KernelBuild:
    """Look at ``path`` and say what is there.

    Raises:
        UserError: it does not exist.
        NothingThere: it holds nothing to validate.
    """
    if path.is_dir():
        found = _directory(path)
    elif path.exists():
        found = _single(path)
    else:
        raise UserError(
            f"{path} does not exist", hint="name a kernel build directory or a file"
        )
    if not found.files:
        raise NothingThere(
            f"{path} has no vmlinux, vmlinux.o, bzImage or .ko",
            hint="build the kernel first, or name the directory given to make O=",
        )
    return found


def pair(builds: Sequence[KernelBuild]) -> list[KernelBuild]:
    """Join each kernel image with the modules of its release, where both are given.

    Distributions tell the release by name: ``/boot/vmlinuz-REL``, ``/lib/modules/REL``.
    """
    images = {
        _IMAGE.sub("", build.root.name): build
        for build in builds
        if build.kernels and not build.modules and _IMAGE.match(build.root.name)
    }
    paired, taken = [], set()
    for build in builds:
        release = build.root.absolute().name
        image = images.get(release)
        if image is None or build.kernels or not build.modules:
            paired.append(build)
            continue
        config = _first(image.root.with_name(f"config-{release}"))
        paired.append(replace(build, kernels=image.kernels, config=config))
        taken.add(image.root)
    return [build for build in paired if build.root not in taken]


def told_apart(names: Mapping[Path, str]) -> dict[Path, str]:
    """Return each path's name where no other has it, and else the path itself."""
    times = Counter(names.values())
    return {
        path: name if times[name] == 1 else str(path) for path, name in names.items()
    }


def _single(path: Path) -> KernelBuild:
    module = path.name.endswith(MODULE_SUFFIXES)
    relocatable = path.suffix == ".o"
    return KernelBuild(
        path,
        kernels=() if module or relocatable else (path,),
        relocatables=(path,) if relocatable else (),
        modules=(path,) if module else (),
        config=None,
        cpufeatures=None,
    )


def _directory(root: Path) -> KernelBuild:
    vmlinux = root / "vmlinux"
    # /lib/modules/REL/vmlinuz is where some distributions keep their image
    images = (root / BZIMAGE, root / "vmlinuz", *sorted(root.glob("vmlinu[xz]-*")))
    kernels = [vmlinux] if vmlinux.is_file() else []
    if not kernels:
        kernels = [path for path in images if path.is_file()]
    objects = root / "objects"
    return KernelBuild(
        root,
        kernels=tuple(kernels),
        relocatables=(
            *(p for p in (root / "vmlinux.o",) if p.is_file()),
            *(sorted(objects.rglob("*.o")) if objects.is_dir() else ()),
        ),
        modules=tuple(sorted(_modules(root))),
        config=_first(root / ".config"),
        cpufeatures=_first(
            root / "cpufeatures.h",
            root / "arch/x86/include/asm/cpufeatures.h",
            root / "source/arch/x86/include/asm/cpufeatures.h",
        ),
        bzimage=_first(root / "bzImage", root / BZIMAGE),
    )


def _modules(root: Path) -> Iterator[Path]:
    for directory, names, files in os.walk(root):
        names[:] = sorted(n for n in names if n not in _SKIPPED)
        yield from (
            Path(directory, name) for name in files if name.endswith(MODULE_SUFFIXES)
        )


def _first(*candidates: Path) -> Path | None:
    return next((path for path in candidates if path.is_file()), None)
