"""What a command in a container may do: nothing but its work."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from harness.container import image as images
from harness.container.engine import connect
from harness.container.job import Engine, Exit, Limits, Mount
from harness.errors import InfraError

pytestmark = pytest.mark.build

_ATTEMPTS = """
test "$(id -u)" != 0 || echo "is root"
grep -q '^CapEff:.*[1-9a-f]' /proc/self/status && echo "has capabilities"
grep -q '^NoNewPrivs:.*0' /proc/self/status && echo "may gain privileges"
ls /sys/class/net | grep -v lo && echo "has a network"
touch /x /usr/x /src/x 2> /dev/null && echo "may write"
touch /out/x /tmp/x || echo "may not write its output"
exit 0
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with connect() as found:
        yield found


@pytest.fixture(scope="module")
def tag(engine) -> str:
    return images.ensure(engine, images.toolchain()).tag


def test_a_command_has_no_more_than_it_needs(engine, tag, tmp_path):
    """No root, no capability, no network, nothing writable but what was given."""
    for name in ("src", "out"):
        (tmp_path / name).mkdir()
    mounts = [Mount(tmp_path / "src", "/src"), Mount(tmp_path / "out", "/out", True)]
    lines: list[str] = []
    argv = ["sh", "-c", _ATTEMPTS]
    assert engine.run(tag, argv, mounts=mounts, on_text=lines.append) == Exit(0)
    assert "".join(lines) == ""
    assert (tmp_path / "out/x").exists()


def test_no_output_is_lost(engine, tag):
    """We listen before the command starts, and until its last byte."""
    lines: list[str] = []
    engine.run(tag, ["seq", "100000"], on_text=lines.append)
    assert "".join(lines).split() == [str(number) for number in range(1, 100001)]


def test_memory_is_limited_and_the_exit_says_so(engine, tag):
    """The flag is what tells a compiler that was killed from one that failed."""
    hungry = ["python3", "-c", "bytearray(512 << 20)"]
    assert engine.run(tag, hungry, limits=Limits(memory_mb=64)).oom_killed


def test_a_started_command_can_be_watched_and_ended(engine, tag):
    """Its output so far is there while it runs; its end is its exit."""
    with engine.start(tag, ["sh", "-c", "echo ready; sleep 600"]) as running:
        deadline = time.monotonic() + 30
        while "ready" not in running.output():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert running.alive()
        assert running.wait(0.01) == Exit(137, timed_out=True)
        assert not running.alive()


def test_a_missing_image_is_one_clear_error(engine):
    """The daemon's 404 is told in a line."""
    with pytest.raises(InfraError, match="no-such-image"):
        engine.run("orc-harness/no-such-image:none", ["true"])
