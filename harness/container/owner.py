"""Owner: the process that a container belongs to, as written on its label."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

OWNER_LABEL = "org.orc-harness.owner"
HOST_LABEL = "org.orc-harness.host"


def labels() -> dict[str, str]:
    """Return the labels that say: this is ours, as long as we live."""
    return {
        OWNER_LABEL: f"{os.getpid()} {_started_at(os.getpid())}",
        HOST_LABEL: _host(),
    }


def orphaned(labels: Mapping[str, str]) -> bool:
    """Tell whether ``labels`` name an owner of this machine that is dead."""
    if labels.get(HOST_LABEL) != _host():
        return False
    pid, _, started = labels.get(OWNER_LABEL, "").partition(" ")
    return not pid.isdigit() or _started_at(int(pid)) != started


def _host() -> str:
    """Name the pid namespace that an owner's pid means something in."""
    return f"{socket.gethostname()} {Path('/proc/self/ns/pid').stat().st_ino}"


def _started_at(pid: int) -> str | None:
    """Return when ``pid`` started, in ticks since boot, or None if it is dead.

    A pid alone is reused; with this it names one process (proc(5), stat field 22).
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()[19]
