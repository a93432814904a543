"""Fetch: files that machines need, taken out of the machine image once.

The hypervisor and the nested host's kernel live in the image; guests and initramfs
archives are made of them on this side. What was fetched is cached by image.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

from harness import cache
from harness.boot.initramfs import Toolbox
from harness.container.job import Limits, Mount
from harness.errors import InfraError

FETCH_S = 120.0


class NotInImage(InfraError):
    """The image has not the files asked for."""


def fetch(toolbox: Toolbox, script: str, *arguments: str) -> Path:
    """Run ``script`` (sh) in the image and return the directory that it filled.

    ``$1`` is the directory to fill, ``arguments`` follow from ``$2``.

    Raises:
        NotInImage: the script failed; its output is in the message.
    """
    key = hashlib.sha256("\0".join((toolbox.identity, script, *arguments)).encode())
    root = cache.cache_dir() / "machine"
    result = root / key.hexdigest()[:20]
    with cache.locked(root / ".lock"):
        if result.exists() and toolbox.engine.runtime != "host":
            return result
        with tempfile.TemporaryDirectory(prefix="orc-fetch-") as scratch:
            output = Mount(Path(scratch), "/output", writable=True)
            _run(toolbox, output, script, arguments)
            shutil.rmtree(result, ignore_errors=True)
            partial = result.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(scratch, partial)
            partial.replace(result)
    return result


def _run(
    toolbox: Toolbox, output: Mount, script: str, arguments: tuple[str, ...]
) -> None:
    text: list[str] = []
    where = toolbox.engine.path(output)
    done = toolbox.engine.run(
        toolbox.image,
        ["sh", "-ec", script, "fetch", where, *arguments],
        mounts=(output,),
        limits=Limits(timeout_s=FETCH_S),
        on_text=text.append,
    )
    if done.returncode or done.timed_out:
        raise NotInImage(
            f"cannot fetch {' '.join(arguments)} from {toolbox.image} "
            f"(exit {done.returncode}, deadline {FETCH_S:g} s): {''.join(text).strip()}"
        )
