"""Shipped: kernels as a distribution ships them, on which we have to be silent.

Which ones is data (``configs/kernels.toml``). They are streamed out of the mirror's
packages inside the toolchain image of their suite, and kept in the cache until the
mirror has a newer one.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from harness import kernel_build, network
from harness.cache import cache_dir, locked, require_space
from harness.container import image
from harness.container.job import Engine, Limits, Mount, own
from harness.corpus import catalog
from harness.data import CONFIGS
from harness.errors import InfraError
from harness.progress import Progress
from harness.result import Stage, StageResult
from harness.stages import validate
from harness.stages.guard import guard

FETCH = Limits(memory_mb=2048, timeout_s=3600)
SPACE = 4 << 30
RECORD = "version"


class Kernel(Struct, frozen=True):
    """One kernel to be silent on; the fields are those of ``configs/kernels.toml``."""

    name: str
    suite: str
    series: str
    flavour: str
    nightly: bool = False


class Fetched(Struct, frozen=True):
    """A kernel that is there.

    Attributes:
        directory: holds vmlinux, .config and the modules.
        package: what the mirror called it: ``linux-image-6.12.117+deb13-cloud-amd64``.
        note: that another series had to be taken, or empty.
    """

    directory: Path
    package: str
    note: str


def chosen(prefix: str, nightly: bool) -> list[Kernel]:
    """Return the kernels whose name begins with ``prefix``; the nightly on request.

    Raises:
        FormatError: the file is not TOML of that shape.
        UserError: there is none.
    """
    entries = catalog.read(CONFIGS / "kernels.toml", Kernel)
    return catalog.choose(entries, prefix, nightly=nightly)


def fetch(engine: Engine, kernel: Kernel, progress: Progress) -> Fetched:
    """Return ``kernel`` in its mirror's newest version, fetched if it is not here.

    Raises:
        InfraError: the mirror has it not, or the line broke.
    """
    network.require(f"the newest {kernel.name}")
    progress(f"fetching {kernel.name}")
    home = cache_dir() / "kernels" / kernel.name
    toolchain = image.ensure(engine, image.toolchain(kernel.suite), progress)
    with locked(home.with_name(f"{home.name}.lock")):
        require_space(home.parent, SPACE, f"the kernel {kernel.name}")
        scratch = Path(tempfile.mkdtemp(dir=home.parent, prefix=".fetching-"))
        try:
            lines = _stream(engine, toolchain.tag, kernel, scratch, home)
            return _placed(scratch, home, lines)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _stream(
    engine: Engine, tag: str, kernel: Kernel, scratch: Path, home: Path
) -> list[str]:
    """Run the fetching program; return the lines that it marks with ``@``."""
    own(scratch, engine.user)
    mount = Mount(scratch, "/out", writable=True)
    script = resources.files("harness.corpus").joinpath("mirror_guest.py")
    text: list[str] = []
    have = _recorded(home)
    ended = engine.run(
        tag,
        [
            "python3",
            "-c",
            script.read_text(),
            engine.path(mount),
            kernel.series,
            kernel.flavour,
            have.package if have else "",
        ],
        mounts=[mount],
        limits=FETCH,
        network=True,
        on_text=text.append,
    )
    lines = "".join(text).splitlines()
    if ended.returncode:
        tail = "\n".join(lines[-10:])
        raise InfraError(
            f"cannot fetch {kernel.name} (status {ended.returncode}):\n{tail}",
            hint="does apt-get update work in a container of this host?",
        )
    return [line[1:] for line in lines if line.startswith("@")]


def _placed(scratch: Path, home: Path, lines: Iterable[str]) -> Fetched:
    """Move what was unpacked to its home, or take what is there if it is the newest."""
    said = dict(line.split(" ", 1) for line in lines)
    package, note = said.get("done", ""), said.get("fallback", "")
    if "same" in said and (have := _recorded(home)) is not None:
        return replace(have, note=note)
    made = scratch / "kernel"
    (made / "modules").mkdir(parents=True)
    for path in sorted(_unpacked(scratch)):
        _keep(path, made)
    if not (made / "vmlinux").exists():
        raise InfraError(f"{package}-dbg holds no vmlinux")
    (made / RECORD).write_text(f"{package}\n")
    shutil.rmtree(home, ignore_errors=True)
    made.replace(home)
    return Fetched(home, package, note)


def _unpacked(scratch: Path) -> Iterator[Path]:
    for directory, _, names in os.walk(scratch):
        yield from (Path(directory, name) for name in names)


def _keep(path: Path, made: Path) -> None:
    if path.is_symlink():
        return
    if path.name.startswith("vmlinux"):
        path.replace(made / "vmlinux")
    elif path.name.startswith("config-") or path.name == "config":
        path.replace(made / ".config")
    else:
        path.replace(made / "modules" / path.name)


def _recorded(home: Path) -> Fetched | None:
    try:
        return Fetched(home, (home / RECORD).read_text().strip(), "")
    except OSError:
        return None


def judge(engine: Engine, kernel: Kernel, jobs: int, progress: Progress) -> StageResult:
    """Fetch and validate ``kernel``; an ERROR if it cannot be had."""

    def work() -> StageResult:
        fetched = fetch(engine, kernel, progress)
        found = kernel_build.find(fetched.directory)
        stage = validate.stage(found, kernel.name, jobs, progress)
        notes = [fetched.package, *filter(None, [fetched.note])]
        return replace(stage, notes=(*notes, *stage.notes))

    return guard(Stage.VALIDATE, kernel.name, work)
