"""The cache directory follows the environment; locks and space are checked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness import cache
from harness.errors import InfraError


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"ORC_HARNESS_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/orc-harness"),
        ({"HOME": "/c"}, "/c/.cache/orc-harness"),
        ({"XDG_CACHE_HOME": "b", "HOME": "/c"}, "/c/.cache/orc-harness"),
    ],
)
def test_cache_dir(environ: dict[str, str], expected: str) -> None:
    """Our own variable wins over XDG, XDG (if it is absolute) over home."""
    assert cache.cache_dir(environ) == Path(expected)


def test_a_full_disk_is_said_before_work_starts(tmp_path: Path) -> None:
    """The message has what is there, what is needed and for what."""
    with pytest.raises(InfraError, match="MB free, a build needs"):
        cache.require_space(tmp_path, 1 << 60, "a build")


def test_a_lock_can_be_taken_again(tmp_path: Path) -> None:
    """Leaving the block releases it."""
    for _ in range(2):
        with cache.locked(tmp_path / "x.lock"):
            pass


def test_a_held_lock_is_not_waited_for(tmp_path: Path) -> None:
    """Who only asks learns that it is held, and that it is free again."""
    path = tmp_path / "x.lock"
    with cache.locked(path), cache.try_locked(path) as free:
        assert not free
    with cache.try_locked(path) as free:
        assert free


def test_a_cache_that_is_held_says_nothing_at_exit(tmp_path: Path) -> None:
    """Held until the process ends, also where every warning is shown."""
    script = (
        "from pathlib import Path; from harness import cache; "
        f"cache.hold(Path({str(tmp_path)!r}))"
    )
    argv = [sys.executable, "-W", "error", "-c", script]

    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)

    assert done.stderr == ""
