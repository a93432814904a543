"""Daemons: which sockets are tried, in which order."""

from __future__ import annotations

import socket

import pytest

from harness.container.daemon import knock, sockets

RUN = {"XDG_RUNTIME_DIR": "/run/user/7"}


def test_docker_host_decides_alone():
    """Who names a daemon wants that one."""
    named = {**RUN, "DOCKER_HOST": "tcp://build.test:2375"}
    assert list(sockets("auto", named)) == [("docker", "tcp://build.test:2375")]
    assert list(sockets("podman", named)) == [("podman", "tcp://build.test:2375")]


def test_docker_comes_before_podman():
    """A working Docker is used as it is."""
    assert [name for name, _ in sockets("auto", RUN)] == ["docker", "podman", "podman"]


def test_a_runtime_is_not_replaced_by_another():
    """Asking for one means that one."""
    assert {name for name, _ in sockets("docker", RUN)} == {"docker"}
    assert {name for name, _ in sockets("podman", RUN)} == {"podman"}


def test_the_users_own_podman_comes_before_roots():
    """Rootless is tried first."""
    assert next(sockets("podman", RUN))[1] == "unix:///run/user/7/podman/podman.sock"


def test_knocking_tells_whether_somebody_listens(tmp_path):
    """A socket file alone is no daemon."""
    path = tmp_path / "d.sock"
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind(str(path))
        daemon.listen()
        knock(f"unix://{path}")
    with pytest.raises(OSError, match="refused"):
        knock(f"unix://{path}")


def test_a_remote_daemon_is_asked_by_the_client_itself():
    """Only local sockets are knocked at."""
    knock("tcp://nowhere.test:1")
