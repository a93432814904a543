"""Engines: finding one, and running on the host."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import docker.errors
import pytest
import requests.exceptions

from harness.container.engine import ContainerEngine, connect
from harness.container.job import Exit, Limits, Mount
from harness.errors import InfraError


@pytest.mark.parametrize("runtime", ["auto", "docker", "podman"])
def test_no_daemon_is_one_error_with_a_remedy(runtime, monkeypatch, tmp_path):
    """The message says where we looked, the hint what to do."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    with (
        pytest.raises(InfraError, match=r"daemon answers\n.*no\.sock") as caught,
        connect(runtime),
    ):
        pytest.fail("there is no daemon")
    assert "./ci/matrix" in (caught.value.hint or "")


@pytest.fixture
def host():
    with connect("host") as engine:
        yield engine


def test_host_streams_output_and_returns_the_status(host):
    """Both of a command's streams arrive, in order."""
    lines: list[str] = []
    argv = ["sh", "-c", "echo out; echo err >&2; exit 3"]
    assert host.run("host", argv, on_text=lines.append) == Exit(3)
    assert lines == ["out\n", "err\n"]


def test_host_sees_a_mount_where_it_is(host, tmp_path):
    """A command's argv is built with path(), so it is right with any runtime."""
    mount = Mount(tmp_path, "/out", writable=True)
    assert host.run("host", ["touch", f"{host.path(mount)}/x"], mounts=[mount]) == Exit(
        0
    )
    assert (tmp_path / "x").exists()


def test_host_stops_a_command_at_its_deadline(host):
    """A hanging command is killed, and the exit says why."""
    started = time.monotonic()
    ended = host.run("host", ["sleep", "60"], limits=Limits(timeout_s=0.2))
    assert ended.timed_out
    assert time.monotonic() - started < 10


def test_host_kills_what_was_started_with_the_block(host, tmp_path):
    """Nothing outlives its context manager, children neither."""
    script = f"sleep 60 & echo $! > {tmp_path}/pid; echo ready; wait"
    with host.start("host", ["sh", "-c", script]) as running:
        while "ready" not in running.output():
            time.sleep(0.01)
        assert running.alive()
    state = Path("/proc", (tmp_path / "pid").read_text().strip(), "stat")

    def lives() -> bool:
        try:
            return state.read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    deadline = time.monotonic() + 10  # it is killed, and has yet to die
    while lives() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not lives()


def test_abort_ends_what_other_threads_run(host):
    """One call lets every thread that waits for a command go on."""
    with (
        ThreadPoolExecutor(1) as pool,
        host.start("host", ["sleep", "60"]) as running,
    ):
        waiting = pool.submit(running.wait, 60)
        host.abort()
        assert waiting.result(10) == Exit(-9)


def test_after_abort_the_host_starts_nothing(host, tmp_path):
    """A thread that comes late does not keep the program from ending."""
    host.abort()
    with pytest.raises(InfraError, match="interrupted"):
        host.run("host", ["touch", str(tmp_path / "started")])
    assert not (tmp_path / "started").exists()


class Stream:
    """The line to a container: chunks to come, or errors."""

    def __init__(self, chunks):
        self._chunks = iter(chunks)
        self.closed = False
        self._response = SimpleNamespace(close=self._close_response)

    def __iter__(self):
        return self

    def __next__(self):
        chunk = next(self._chunks)
        if isinstance(chunk, Exception):
            raise chunk
        return chunk

    def close(self):
        return None

    def _close_response(self):
        self.closed = True


class Daemon:
    """A container daemon and its one container; ``gone`` is what it says if so."""

    def __init__(self, *chunks):
        self.stream = Stream(chunks)
        self.gone: Exception | None = None
        self.at_create = lambda: None
        self.at_start = lambda: None
        self.created: list[str] = []
        self.removed: list[str] = []
        self.attrs = {"State": {}}
        self.containers = self.api = self

    def info(self):
        return {}

    def create(self, image, argv, *, name, **options):
        self.at_create()
        self.created.append(name)
        return self

    def attach(self, **options):
        return self.stream

    def start(self):
        self.at_start()

    def kill(self):
        if self.gone:
            raise self.gone

    def wait(self, timeout):
        return {"StatusCode": 0}

    def reload(self):
        return None

    def remove_container(self, name, **options):
        if self.gone:
            raise self.gone
        self.removed.append(name)


def engine_of(daemon: Daemon) -> ContainerEngine:
    return ContainerEngine(daemon, "docker")  # type: ignore[arg-type]


def test_after_abort_no_container_is_created():
    """A thread that comes late does not even ask the daemon."""
    daemon = Daemon()
    engine = engine_of(daemon)
    engine.abort()
    with pytest.raises(InfraError, match="interrupted"):
        engine.run("image", ["true"])
    assert daemon.created == []


@pytest.mark.parametrize("moment", ["at_create", "at_start"])
def test_container_that_is_being_started_does_not_survive_abort(moment):
    """What cannot be killed yet is removed as soon as it has started."""
    daemon = Daemon(b"ran")
    engine = engine_of(daemon)
    setattr(daemon, moment, engine.abort)
    seen: list[str] = []
    with pytest.raises(InfraError, match="interrupted"):
        engine.run("image", ["true"], on_text=seen.append)
    assert seen == []
    assert daemon.removed == daemon.created != []


def test_abort_of_a_container_engine_kills_processes_too(host):
    """An image's bootstrap runs on the host: it ends at Ctrl-C as containers do."""
    with host.start("host", ["sleep", "60"]) as running:
        engine_of(Daemon()).abort()
        assert running.wait(10) == Exit(-9)


@pytest.mark.parametrize(
    "gone",
    [
        requests.exceptions.ConnectionError("refused"),
        docker.errors.DockerException("no daemon"),
    ],
)
def test_daemon_that_goes_away_does_not_hide_the_first_error(gone):
    """The caller sees what went wrong, and the line is closed all the same."""
    daemon = Daemon()

    def fail() -> None:
        with engine_of(daemon).start("image", ["true"]) as running:
            daemon.gone = gone
            running.kill()
            raise ValueError("the first")

    with pytest.raises(ValueError, match="the first"):
        fail()
    assert daemon.stream.closed


def full(text: str) -> None:
    raise OSError(28, "No space left on device")


def test_line_closed_under_us_ends_the_output():
    """A container that is removed while it is read is no error."""
    seen: list[str] = []
    daemon = Daemon(b"text", OSError("closed"))
    assert engine_of(daemon).run("image", ["true"], on_text=seen.append) == Exit(0)
    assert seen == ["text"]


def test_error_of_the_reader_reaches_who_runs_a_container():
    """A full disk while a log is written must not pass for a short log."""
    with pytest.raises(OSError, match="No space"):
        engine_of(Daemon(b"text")).run("image", ["true"], on_text=full)


def test_error_of_the_reader_reaches_who_waits_for_a_container():
    """What was raised in the reading thread is raised by wait()."""
    daemon = Daemon(b"text")
    with (
        engine_of(daemon).start("image", ["true"], on_text=full) as running,
        pytest.raises(OSError, match="No space"),
    ):
        running.wait(10)


def test_error_of_the_reader_reaches_who_runs_on_the_host(host):
    """The same holds without containers, and the command does not go on."""
    with pytest.raises(OSError, match="No space"):
        host.run("host", ["sh", "-c", "echo text; sleep 60"], on_text=full)


def test_host_does_not_pass_the_callers_environment_on(host, monkeypatch):
    """A build's bytes must not depend on who started it."""
    monkeypatch.setenv("KCFLAGS", "-O0")
    lines: list[str] = []
    host.run("host", ["env"], env={"GIVEN": "yes"}, on_text=lines.append)
    assert "GIVEN=yes\n" in lines
    assert not any(line.startswith("KCFLAGS") for line in lines)


def test_host_has_no_images(host):
    """Asking the host for an image is answered clearly."""
    assert host.has_image("host")
    assert not host.has_image("debian:sid")
    with pytest.raises(InfraError, match="no images"):
        host.pull("debian:sid")
