"""What ci/host does to a machine before its container engine starts."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

HOST = Path(__file__).resolve().parents[2] / "ci/host"
CONTROLLER = "hugetlb"  # what version 1 leaves to version 2 most often
# As in a container: our own group looks like the root, and we are in it.
INSIDE = """
mount -t cgroup2 none "$1/inside" && mount --bind "$1/inside" /sys/fs/cgroup || exit 9
mkdir /sys/fs/cgroup/docker
give() { echo +hugetlb > /sys/fs/cgroup/cgroup.subtree_control; }
give 2>/dev/null && exit 8
eval "$2"
make_room_for_groups && make_room_for_groups || exit 7
give && echo $$ > /sys/fs/cgroup/docker/cgroup.procs && cat /proc/self/cgroup
"""


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Path]:
    """A group of version 2 with a controller, which nobody is in."""
    root = tmp_path / "cgroup2"
    root.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "cgroup2", "none", root], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no cgroup2 can be mounted: {mounted.stderr.decode().strip()}")
    try:
        given = root / "cgroup.subtree_control"
        before = given.read_text().split()
        if CONTROLLER not in (root / "cgroup.controllers").read_text().split():
            pytest.skip(f"this kernel has no {CONTROLLER} in version 2 of cgroups")
        given.write_text(f"+{CONTROLLER}")
        ours = root / f"orc-harness-{os.getpid()}"
        ours.mkdir()
        try:
            yield ours
        finally:
            for path in (ours / "docker", ours / "init", ours):
                if path.exists():
                    path.rmdir()
            if CONTROLLER not in before:
                given.write_text(f"-{CONTROLLER}")
    finally:
        subprocess.run(["umount", root], check=True)


@pytest.mark.build
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount cgroup2")
def test_a_daemon_in_a_container_can_make_groups(group: Path, tmp_path: Path) -> None:
    """The kernel refuses a group's parts to others while anybody is in it."""
    found = re.search(
        r"^make_room_for_groups\(\) \{\n.*?^\}\n", HOST.read_text(), re.M | re.S
    )
    assert found is not None
    (tmp_path / "inside").mkdir()
    enter = 'echo $$ > "$0/cgroup.procs" && exec unshare -C -m bash -c "$@"'
    done = subprocess.run(
        ["sh", "-c", enter, group, INSIDE, "inside", tmp_path, found[0]],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "0::/docker\n" in done.stdout
