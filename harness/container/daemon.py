"""Daemon: where one that runs containers may listen."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

KNOCK_TIMEOUT_S = 10.0


def knock(url: str) -> None:
    """Raise OSError if nobody listens on a local ``url``; the SDK would leak it."""
    if url.startswith("unix://"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(KNOCK_TIMEOUT_S)
            line.connect(url.removeprefix("unix://"))


def sockets(
    runtime: str, environ: Mapping[str, str] = os.environ
) -> Iterator[tuple[str, str]]:
    """Yield (runtime, URL) of every place where a daemon may listen."""
    if named := environ.get("DOCKER_HOST"):
        yield runtime.replace("auto", "docker"), named
        return
    user_run = environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
    if runtime in ("auto", "docker"):
        yield "docker", "unix:///var/run/docker.sock"
        if Path(user_run, "docker.sock").exists():
            yield "docker", f"unix://{user_run}/docker.sock"
    if runtime in ("auto", "podman"):
        if named := environ.get("CONTAINER_HOST"):
            yield "podman", named
        for place in (f"{user_run}/podman/podman.sock", "/run/podman/podman.sock"):
            yield "podman", f"unix://{place}"
