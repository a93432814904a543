"""Job: one command, all that it may see and take, and the Engine that runs it.

These are the words in which the rest of the project speaks about containers; who
asks for one gets it from ``harness/container/engine.py``'s ``connect``.
"""

from __future__ import annotations

import abc
import contextlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypedDict, Unpack

from msgspec import Struct, field

from harness.errors import InfraError

OnText = Callable[[str], object]


class Mount(Struct, frozen=True):
    """A directory or file of the host and where the command sees it."""

    source: Path
    target: str
    writable: bool = False


class Limits(Struct, frozen=True):
    """What a command may take before it is stopped."""

    memory_mb: int = 4096
    pids: int = 4096
    cpus: float = 2.0
    timeout_s: float = 600.0


class Exit(Struct, frozen=True):
    """How a command ended; ``returncode`` is -1 if it had not."""

    returncode: int
    oom_killed: bool = False
    timed_out: bool = False


class Options(TypedDict, total=False):
    """The keywords of :meth:`Engine.run` and :meth:`Engine.start`; see :class:`Job`."""

    mounts: Sequence[Mount]
    limits: Limits
    env: Mapping[str, str]
    network: bool
    user: str | None
    workdir: str | None
    devices: Sequence[str]
    on_text: OnText | None


class Job(Struct, frozen=True):
    """One command and all that it may see and take.

    Attributes:
        network: give it the default bridge; else it has only a loopback.
        user: ``uid:gid``; None is :attr:`Engine.user`.
        devices: paths of device nodes, the same on both sides.
        on_text: is handed the merged output as it comes. ``run`` calls it in the
            caller's thread, ``start`` in one of its own.
    """

    image: str
    argv: Sequence[str]
    mounts: Sequence[Mount] = ()
    limits: Limits = Limits()
    env: Mapping[str, str] = field(default_factory=dict)
    network: bool = False
    user: str | None = None
    workdir: str | None = None
    devices: Sequence[str] = ()
    on_text: OnText | None = None


class Running(abc.ABC):
    """A started command. It is gone when the block that started it is left."""

    @abc.abstractmethod
    def alive(self) -> bool:
        """Tell whether it still runs."""

    @abc.abstractmethod
    def output(self) -> str:
        """Return the merged output so far."""

    @abc.abstractmethod
    def kill(self) -> None:
        """Kill it at once; harmless if it has ended."""

    @abc.abstractmethod
    def wait(self, timeout_s: float) -> Exit:
        """Wait for its end; kill it at the deadline (``timed_out`` tells)."""


class Engine(abc.ABC):
    """Where commands run: ``docker``, ``podman`` or ``host``."""

    runtime: str
    user: str  # ``uid:gid`` that commands run as, unless told; never root outside

    @abc.abstractmethod
    def run(self, image: str, argv: Sequence[str], **options: Unpack[Options]) -> Exit:
        """Run a command to its end, or its deadline, and leave nothing behind.

        Raises:
            InfraError: it could not be started, or :meth:`abort` was called.
        """

    @abc.abstractmethod
    def start(
        self, image: str, argv: Sequence[str], **options: Unpack[Options]
    ) -> contextlib.AbstractContextManager[Running]:
        """Start a command; leaving the block kills and removes it."""

    @abc.abstractmethod
    def abort(self) -> None:
        """Kill everything that runs, in other threads too; they see it end.

        Nothing starts afterwards. The processes of ``harness/run.py`` die as well.
        """

    @abc.abstractmethod
    def path(self, mount: Mount) -> str:
        """Return where a command sees ``mount``: build argv with this."""

    @abc.abstractmethod
    def reap(self) -> int:
        """Remove what a dead owner left; return how many."""

    @abc.abstractmethod
    def image_id(self, tag: str) -> str | None:
        """Return the id of the image ``tag``, or None."""

    def has_image(self, tag: str) -> bool:
        """Tell whether there is an image ``tag``."""
        return self.image_id(tag) is not None

    @abc.abstractmethod
    def pull(self, tag: str) -> None:
        """Fetch the image ``tag`` from a registry.

        Raises:
            InfraError: no registry has it, or none answers.
        """

    @abc.abstractmethod
    def import_tar(self, tar: Path, tag: str, changes: Sequence[str]) -> None:
        """Make an image of the root file system in ``tar``."""

    @abc.abstractmethod
    def build_image(
        self, files: Mapping[str, str], tag: str, *, on_text: OnText, timeout_s: float
    ) -> None:
        """Build ``files`` (name -> text, one is the Dockerfile) into ``tag``.

        Raises:
            InfraError: a step failed, or there is no registry for its base.
        """

    @abc.abstractmethod
    def tag_image(self, source: str, tag: str) -> None:
        """Give the image ``source`` another tag."""

    @abc.abstractmethod
    def remove_image(self, tag: str) -> None:
        """Take ``tag`` away; harmless if there is none."""


def refuse_if(aborted: threading.Event) -> None:
    """Raise InfraError if ``aborted`` is set: an engine starts nothing more."""
    if aborted.is_set():
        raise InfraError("interrupted")


def own(path: Path, user: str) -> None:
    """Give ``path`` to ``user`` (``uid:gid``), if we may: only root can."""
    uid, gid = (int(number) for number in user.split(":"))
    here = path.stat()
    if os.geteuid() == 0 and (here.st_uid, here.st_gid) != (uid, gid):
        os.chown(path, uid, gid)
