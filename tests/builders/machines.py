"""Machines: an engine whose commands are Python functions, and a QEMU of sockets."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Unpack

from harness.container.host import HostEngine
from harness.container.job import Exit, Job, Options, Running

QMP_GREETING = {"QMP": {"version": {"qemu": {"major": 10, "minor": 0, "micro": 13}}}}


@dataclass
class ScriptedEngine(HostEngine):
    """Runs ``command(job)`` in place of a container; keeps every job.

    Its commands see the host's own paths, as the host engine's do.
    """

    command: Callable[[Job], Exit] = field(default=lambda job: Exit(0))
    running: Callable[[Job], Running] | None = None
    jobs: list[Job] = field(default_factory=list)
    runtime: str = "docker"
    user: str = "0:0"

    def run(self, image: str, argv: Sequence[str], **options: Unpack[Options]) -> Exit:
        job = Job(image, argv, **options)
        self.jobs.append(job)
        return self.command(job)

    @contextlib.contextmanager
    def start(
        self, image: str, argv: Sequence[str], **options: Unpack[Options]
    ) -> Iterator[Running]:
        job = Job(image, argv, **options)
        self.jobs.append(job)
        assert self.running is not None
        yield self.running(job)

    def image_id(self, tag: str) -> str | None:
        return f"id-of-{tag}"


@dataclass
class Process(Running):
    """A command that is alive until somebody ends it."""

    exit: Exit = field(default_factory=lambda: Exit(0))
    text: str = ""
    killed: bool = False
    ended: threading.Event = field(default_factory=threading.Event)

    def alive(self) -> bool:
        return not self.ended.is_set()

    def output(self) -> str:
        return self.text

    def kill(self) -> None:
        self.killed = True
        self.exit = Exit(137)
        self.ended.set()

    def wait(self, timeout_s: float) -> Exit:
        assert self.ended.wait(timeout_s)
        return self.exit


@contextlib.contextmanager
def qmp_server(
    path: Path,
    answers: Mapping[str, Sequence[object] | None] | None = None,
    greeting: object = QMP_GREETING,
) -> Iterator[list[str]]:
    """Serve QEMU's control protocol at ``path``; yield the commands it was given.

    ``answers`` maps a command to the messages sent for it, None hangs up; other
    commands are accepted.
    """
    seen: list[str] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        listener.settimeout(10)
        thread = threading.Thread(
            target=_serve_qmp,
            args=(listener, answers or {}, greeting, seen),
            daemon=True,
        )
        thread.start()
        yield seen
        thread.join(10)


def _serve_qmp(
    listener: socket.socket,
    answers: Mapping[str, Sequence[object] | None],
    greeting: object,
    seen: list[str],
) -> None:
    with contextlib.suppress(OSError):
        connection, _ = listener.accept()
        with connection, connection.makefile("rwb", buffering=0) as lines:
            lines.write(_line(greeting))
            for request in lines:
                name = json.loads(request)["execute"]
                seen.append(name)
                messages = answers.get(name, ({"return": {}},))
                if messages is None:
                    return
                for message in messages:
                    lines.write(_line(message))


def _line(message: object) -> bytes:
    return json.dumps(message).encode() + b"\n"
