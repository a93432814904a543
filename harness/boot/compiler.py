"""Compiler: our C programs, compiled in the machine image and kept by their hash."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness import cache
from harness.container.job import Engine, Limits, Mount
from harness.errors import InfraError

COMPILE_S = 120.0


def compiled(
    engine: Engine,
    image: str,
    name: str,
    argv: Sequence[str],
    directory: Path,
    sources: Sequence[str],
) -> bytes:
    """Return what ``argv`` makes of ``sources`` in ``directory``, compiled once.

    ``-o`` and the sources are added to ``argv``. A change of any file of the
    directory, of the arguments or of the image compiles anew.

    Raises:
        InfraError: the image's compiler does not compile it.
    """
    identity = f"{engine.runtime}:{engine.image_id(image)}"
    digest = hashlib.sha256(repr((argv, sources, identity)).encode())
    for source in sorted(directory.iterdir()):
        digest.update(source.name.encode() + source.read_bytes())
    kept = cache.cache_dir() / "guest"
    path = kept / f"{name}-{digest.hexdigest()[:20]}"
    with cache.locked(kept / ".lock"):
        if not path.exists():
            _compile(engine, image, path, name, argv, directory, sources)
        return path.read_bytes()


def _compile(
    engine: Engine,
    image: str,
    result: Path,
    name: str,
    argv: Sequence[str],
    directory: Path,
    sources: Sequence[str],
) -> None:
    with tempfile.TemporaryDirectory(prefix="orc-cc-") as scratch:
        # A copy: the container's user may not be allowed to read the original.
        for source in directory.iterdir():
            copy = Path(scratch) / source.name
            shutil.copyfile(source, copy)
            copy.chmod(0o644)
        mount = Mount(Path(scratch), "/guest", writable=True)
        where = engine.path(mount)
        text: list[str] = []
        done = engine.run(
            image,
            [
                *(*argv, "-o", f"{where}/{name}"),
                *(f"{where}/{source}" for source in sources),
            ],
            mounts=(mount,),
            limits=Limits(timeout_s=COMPILE_S),
            on_text=text.append,
        )
        if done.returncode or done.timed_out:
            raise InfraError(
                f"cannot compile the guest's {name} in {image} "
                f"(exit {done.returncode}, deadline {COMPILE_S:g} s)\n{''.join(text)}",
                hint="it needs gcc and libc6-dev; orc-harness doctor checks for them",
            )
        partial = result.with_suffix(".partial")
        shutil.copyfile(Path(scratch) / name, partial)
        partial.replace(result)
