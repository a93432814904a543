"""Engines: finding one, and running on the host."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.container.engine import connect
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
    pid = int((tmp_path / "pid").read_text())
    state = Path(f"/proc/{pid}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_abort_ends_what_other_threads_run(host):
    """One call lets every thread that waits for a command go on."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(host.run, "host", ["sleep", "60"])
        while not waiting.done():
            host.abort()
            time.sleep(0.01)
        assert waiting.result() == Exit(-9)


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
