"""Engine: what runs a command in a container; the only door to Docker.

Docker and Podman (through its Docker-compatible socket) speak one API and share
:class:`ContainerEngine`; ``harness/container/host.py`` runs the same commands without
a container. A container sees no network, no capability and no writable file but
its mounts and /tmp; it has limits, the caller's (or another unprivileged) user, and
a label that names its owner, so that nothing outlives us for long.
"""

from __future__ import annotations

import codecs
import contextlib
import itertools
import os
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import docker
import docker.errors
import docker.types
import requests.exceptions

from harness import run
from harness.container import context, daemon, owner
from harness.container.job import (
    Engine,
    Exit,
    Job,
    Mount,
    OnText,
    Options,
    Running,
    own,
    refuse_if,
)
from harness.errors import InfraError

if TYPE_CHECKING:
    from docker.models.containers import Container

UNPRIVILEGED = "1001:1001"
API_TIMEOUT_S = 120
OPEN_FILES = 4096
PROCESSES = 32768
END_TIMEOUT_S = 20.0
NO_ENGINE_HINT = (
    "./ci/matrix installs and starts Docker; DOCKER_HOST names a daemon elsewhere; "
    "--runtime host builds without containers"
)

# What the SDK raises; requests' own errors, of a line that broke, are OSErrors.
_UNANSWERED = (docker.errors.DockerException, OSError)

_sequence = itertools.count()


@contextlib.contextmanager
def connect(runtime: str = "auto") -> Iterator[Engine]:
    """Yield the engine ``runtime``: auto, docker, podman or host.

    ``auto`` takes the first of Docker and Podman that answers; it never falls back
    to the host. DOCKER_HOST is honoured.

    Raises:
        InfraError: none answers.
    """
    if runtime == "host":
        from harness.container.host import HostEngine

        yield HostEngine()
        return
    with contextlib.ExitStack() as stack:
        yield _first_that_answers(runtime, stack)


def _first_that_answers(runtime: str, stack: contextlib.ExitStack) -> ContainerEngine:
    seen: list[str] = []
    for name, url in daemon.sockets(runtime):
        try:
            daemon.knock(url)
            client = docker.DockerClient(base_url=url, timeout=API_TIMEOUT_S)
        except _UNANSWERED as exc:
            seen.append(f"{url}: {_reason(exc)}")
            continue
        stack.callback(client.close)
        return ContainerEngine(client, _real_name(client, name))
    wanted = "docker or podman" if runtime == "auto" else runtime
    tried = "".join(f"\n  {line}" for line in seen)
    raise InfraError(f"no {wanted} daemon answers{tried}", hint=NO_ENGINE_HINT)


def _real_name(client: docker.DockerClient, name: str) -> str:
    """Tell Podman from Docker by what the daemon says it is."""
    components = client.version().get("Components") or []
    names = {str(component.get("Name", "")) for component in components}
    return "podman" if "Podman Engine" in names else name


def _reason(exc: BaseException) -> str:
    while exc.__cause__ or exc.__context__:
        exc = exc.__cause__ or exc.__context__ or exc
    return str(exc) or type(exc).__name__


@contextlib.contextmanager
def _speaking(what: str) -> Iterator[None]:
    """Turn whatever the daemon or the line to it says into one InfraError."""
    try:
        yield
    except docker.errors.APIError as exc:
        raise InfraError(f"{what}: {exc.explanation or exc}") from exc
    except (
        docker.errors.DockerException,
        requests.exceptions.RequestException,
    ) as exc:
        raise InfraError(
            f"{what}: {_reason(exc)}", hint="is the container daemon alive?"
        ) from exc


class ContainerEngine(Engine):
    """Docker, or Podman behind the same API."""

    def __init__(self, client: docker.DockerClient, runtime: str) -> None:
        self._client = client
        self.runtime = runtime
        with _speaking(f"{runtime} does not tell about itself"):
            security = client.info().get("SecurityOptions") or []
        self._rootless = any("rootless" in str(option) for option in security)
        self.user = self._usual_user()
        self._live: set[_Container] = set()
        self._aborted = threading.Event()

    def _usual_user(self) -> str:
        if self._rootless and self.runtime == "docker":
            return "0:0"  # root in a rootless daemon's container is the caller
        if os.geteuid() == 0:
            return UNPRIVILEGED
        return f"{os.getuid()}:{os.getgid()}"

    def run(self, image: str, argv: Sequence[str], **options: Unpack[Options]) -> Exit:
        """See :meth:`Engine.run`."""
        job = Job(image, argv, **options)
        with self._started(job, threaded=False) as running:
            return running.pump_and_wait(job.limits.timeout_s)

    @contextlib.contextmanager
    def start(
        self, image: str, argv: Sequence[str], **options: Unpack[Options]
    ) -> Iterator[Running]:
        """See :meth:`Engine.start`."""
        with self._started(Job(image, argv, **options), threaded=True) as running:
            yield running

    @contextlib.contextmanager
    def _started(self, job: Job, *, threaded: bool) -> Iterator[_Container]:
        refuse_if(self._aborted)
        for mount in job.mounts:
            if mount.writable:
                own(mount.source, job.user or self.user)
        name = f"orc-harness-{os.getpid()}-{next(_sequence)}-{uuid.uuid4().hex[:8]}"
        api = self._client.api
        running: _Container | None = None
        try:
            with _speaking(f"cannot start {job.argv[0]} in {job.image}"):
                container = self._create(job, name)
                running = _Container(container, job.on_text)
                self._live.add(running)
                container.start()
            refuse_if(self._aborted)  # abort() cannot kill what has not started
            if threaded:
                running.pump_in_background()
            yield running
        finally:
            # By name: the daemon may have made it although create() was cut short.
            with contextlib.suppress(*_UNANSWERED):
                api.remove_container(name, force=True, v=True)
            if running is not None:
                self._live.discard(running)
                running.close()

    def _create(self, job: Job, name: str) -> Container:
        options = self._create_options(job)
        create = self._client.containers.create
        try:
            return create(job.image, list(job.argv), name=name, **options)
        except docker.errors.APIError as exc:
            if "init binary" not in str(exc.explanation):
                raise
        # Podman without its catatonit: the command is process 1 then.
        return create(
            job.image, list(job.argv), name=name, **{**options, "init": False}
        )

    def _create_options(self, job: Job) -> dict[str, Any]:
        limits = job.limits
        memory = f"{limits.memory_mb}m"
        options: dict[str, Any] = {
            "user": job.user or self.user,
            "environment": {"HOME": "/tmp", **job.env},
            "working_dir": job.workdir,
            "mounts": [
                docker.types.Mount(
                    mount.target,
                    str(mount.source.resolve()),
                    type="bind",
                    read_only=not mount.writable,
                )
                for mount in job.mounts
            ],
            "devices": [f"{device}:{device}:rwm" for device in job.devices],
            "group_add": [Path(device).stat().st_gid for device in job.devices],
            "mem_limit": memory,
            "memswap_limit": memory,
            "nano_cpus": int(min(limits.cpus, os.cpu_count() or 1) * 1e9),
            "pids_limit": limits.pids,
            "ulimits": self._ulimits(),
            "read_only": True,
            "tmpfs": {"/tmp": "size=2g,exec,mode=1777"},
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
            "init": True,
            "labels": owner.labels(),
        }
        if not job.network:
            options["network_mode"] = "none"
        if self._rootless and self.runtime == "podman":
            options["userns_mode"] = "keep-id"
        return options

    def abort(self) -> None:
        """See :meth:`Engine.abort`."""
        self._aborted.set()
        run.kill_all()
        for running in list(self._live):
            running.kill()

    def _ulimits(self) -> list[docker.types.Ulimit]:
        names = {"nofile": OPEN_FILES}
        if self.runtime == "podman":
            # Its default is the most there can be, which it may not be allowed to set.
            names["nproc"] = PROCESSES
        return [
            docker.types.Ulimit(name=name, soft=limit, hard=limit)
            for name, limit in names.items()
        ]

    def path(self, mount: Mount) -> str:
        """See :meth:`Engine.path`."""
        return mount.target

    def reap(self) -> int:
        """See :meth:`Engine.reap`."""
        with _speaking("cannot list containers"):
            ours = self._client.containers.list(
                all=True, ignore_removed=True, filters={"label": owner.OWNER_LABEL}
            )
            orphans = [
                container for container in ours if owner.orphaned(container.labels)
            ]
            for orphan in orphans:
                with contextlib.suppress(docker.errors.NotFound):
                    orphan.remove(force=True, v=True)
        return len(orphans)

    def image_id(self, tag: str) -> str | None:
        """See :meth:`Engine.image_id`."""
        with _speaking(f"cannot look for image {tag}"):
            try:
                return self._client.images.get(tag).id
            except docker.errors.ImageNotFound:
                return None

    def pull(self, tag: str) -> None:
        """See :meth:`Engine.pull`."""
        repository, _, version = tag.rpartition(":")
        with _speaking(f"cannot pull {tag}"):
            self._client.images.pull(repository, version)

    def import_tar(self, tar: Path, tag: str, changes: Sequence[str]) -> None:
        """See :meth:`Engine.import_tar`."""
        repository, _, version = tag.rpartition(":")
        with _speaking(f"cannot import {tar.name} as {tag}"):
            self._client.api.import_image_from_file(
                str(tar), repository=repository, tag=version, changes=list(changes)
            )

    def build_image(
        self, files: Mapping[str, str], tag: str, *, on_text: OnText, timeout_s: float
    ) -> None:
        """See :meth:`Engine.build_image`."""
        with _speaking(f"cannot build image {tag}"):
            lines = self._client.api.build(
                fileobj=context.pack(files),
                custom_context=True,
                tag=tag,
                rm=True,
                forcerm=True,
                decode=True,
                timeout=int(timeout_s),
            )
            for line in lines:
                if error := line.get("error"):
                    raise InfraError(f"cannot build image {tag}: {error.strip()}")
                on_text(line.get("stream", ""))

    def tag_image(self, source: str, tag: str) -> None:
        """See :meth:`Engine.tag_image`."""
        repository, _, version = tag.rpartition(":")
        with _speaking(f"cannot tag {source} as {tag}"):
            self._client.images.get(source).tag(repository, version)

    def remove_image(self, tag: str) -> None:
        """See :meth:`Engine.remove_image`."""
        with (
            _speaking(f"cannot remove image {tag}"),
            contextlib.suppress(docker.errors.ImageNotFound),
        ):
            self._client.images.remove(tag)


class _Container(Running):
    """A created container, attached to before it starts so that no output is lost."""

    def __init__(self, container: Container, on_text: OnText | None) -> None:
        self._container = container
        self._on_text = on_text
        self._text: list[str] = []
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        self._stream = container.attach(stream=True, stdout=True, stderr=True)

    def _pump(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        try:
            while (chunk := self._next_chunk()) is not None:
                text = decoder.decode(chunk)
                self._text.append(text)
                if self._on_text is not None:
                    self._on_text(text)
        finally:
            self._ended.set()

    def _next_chunk(self) -> bytes | None:
        try:
            return next(self._stream, None)
        except (OSError, ValueError):
            return None  # the line was closed under us: it is being removed

    def _pump_for_wait(self) -> None:
        try:
            self._pump()
        except Exception as exc:  # noqa: BLE001 - wait() raises it
            self._failure = exc

    def pump_in_background(self) -> None:
        """Read the output in a thread."""
        self._thread = threading.Thread(target=self._pump_for_wait, daemon=True)
        self._thread.start()

    def pump_and_wait(self, timeout_s: float) -> Exit:
        """Read the output in this thread until the end or the deadline."""
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            self.kill()

        timer = threading.Timer(timeout_s, expire)
        timer.daemon = True
        timer.start()
        try:
            self._pump()
        finally:
            timer.cancel()
            timer.join()
        return self._exit(timed_out=expired.is_set())

    def alive(self) -> bool:
        return not self._ended.is_set()

    def output(self) -> str:
        return "".join(self._text)

    def kill(self) -> None:
        with contextlib.suppress(*_UNANSWERED):  # it has ended already, mostly
            self._container.kill()

    def wait(self, timeout_s: float) -> Exit:
        if expired := not self._ended.wait(timeout_s):
            self.kill()
        if self._failure is not None:
            raise self._failure
        return self._exit(timed_out=expired)

    def _exit(self, *, timed_out: bool) -> Exit:
        with _speaking("cannot learn how the container ended"):
            status = self._container.wait(timeout=END_TIMEOUT_S)
            self._container.reload()
        oom = bool(self._container.attrs["State"].get("OOMKilled"))
        return Exit(int(status["StatusCode"]), oom_killed=oom, timed_out=timed_out)

    def close(self) -> None:
        """Close the line; the container is gone already."""
        if self._thread is not None:
            self._thread.join(END_TIMEOUT_S)
        with contextlib.suppress(OSError, ValueError):
            self._stream.close()
        # The stream leaves closing the response to its reader.
        self._stream._response.close()  # type: ignore[attr-defined]
