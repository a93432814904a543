"""HostEngine: runs the commands of a container engine on this machine itself.

For machines without containers (``--runtime host``). There are no images, and no
isolation beyond the caller's own rights; memory and process limits do not hold.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Unpack

from harness import run
from harness.container.job import (
    Engine,
    Exit,
    Job,
    Mount,
    OnText,
    Options,
    Running,
    refuse_if,
)
from harness.errors import InfraError

HOST_IMAGE = "host"
_PASSED_ON = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "USER")


class HostEngine(Engine):
    """The host. Its one image, ``host``, is always there."""

    runtime = "host"

    def __init__(self) -> None:
        self.user = f"{os.getuid()}:{os.getgid()}"
        self._aborted = threading.Event()

    def run(self, image: str, argv: Sequence[str], **options: Unpack[Options]) -> Exit:
        """See :meth:`Engine.run`."""
        job = Job(image, argv, **options)
        with self.start(image, argv, **options) as running:
            return running.wait(job.limits.timeout_s)

    @contextlib.contextmanager
    def start(
        self, image: str, argv: Sequence[str], **options: Unpack[Options]
    ) -> Iterator[Running]:
        """See :meth:`Engine.start`."""
        job = Job(image, argv, **options)
        refuse_if(self._aborted)
        with run.started(
            job.argv,
            job.on_text,
            cwd=None if job.workdir is None else Path(job.workdir),
            env={**_environment(os.environ), **job.env},
        ) as process:
            refuse_if(self._aborted)
            yield _HostProcess(process)

    def abort(self) -> None:
        """See :meth:`Engine.abort`."""
        self._aborted.set()
        run.kill_all()

    def path(self, mount: Mount) -> str:
        """See :meth:`Engine.path`."""
        return str(mount.source.resolve())

    def reap(self) -> int:
        """See :meth:`Engine.reap`: a process group dies with the block it is in."""
        return 0

    def image_id(self, tag: str) -> str | None:
        """See :meth:`Engine.image_id`."""
        return HOST_IMAGE if tag == HOST_IMAGE else None

    def pull(self, tag: str) -> None:
        """See :meth:`Engine.pull`."""
        raise _no_images(tag)

    def import_tar(self, tar: Path, tag: str, changes: Sequence[str]) -> None:
        """See :meth:`Engine.import_tar`."""
        raise _no_images(tag)

    def build_image(
        self, files: Mapping[str, str], tag: str, *, on_text: OnText, timeout_s: float
    ) -> None:
        """See :meth:`Engine.build_image`."""
        raise _no_images(tag)

    def tag_image(self, source: str, tag: str) -> None:
        """See :meth:`Engine.tag_image`."""
        raise _no_images(tag)

    def remove_image(self, tag: str) -> None:
        """See :meth:`Engine.remove_image`."""


class _HostProcess(Running):
    def __init__(self, process: run.Process) -> None:
        self._process = process

    def alive(self) -> bool:
        return self._process.alive()

    def output(self) -> str:
        return self._process.output()

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout_s: float) -> Exit:
        if expired := not self._process.wait(timeout_s):
            self.kill()
            self._process.wait(timeout_s)
        return Exit(self._process.returncode, timed_out=expired)


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Keep of the caller's environment what programs need to be found and to run."""
    return {name: environ[name] for name in _PASSED_ON if name in environ}


def _no_images(tag: str) -> InfraError:
    return InfraError(
        f"the host runtime has no images, and {tag} was asked for",
        hint="use --runtime docker or podman",
    )
