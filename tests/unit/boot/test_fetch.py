"""Taking files out of the machine image: once, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.boot.fetch import NotInImage, fetch
from harness.boot.initramfs import Toolbox
from harness.container.job import Exit, Job
from tests.builders.machines import ScriptedEngine


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's cache out of it."""
    monkeypatch.setenv("ORC_HARNESS_CACHE", str(tmp_path / "cache"))


def copies(job: Job) -> Exit:
    """Act as a script that copies one file."""
    Path(job.argv[4], "xen").write_bytes(b"hypervisor")
    return Exit(0)


def test_fetched_once_per_image() -> None:
    """The same files of the same image are fetched once."""
    engine = ScriptedEngine(copies)
    for image in ("a", "a", "b"):
        directory = fetch(Toolbox(engine, image), "cp", "/opt/xen")
        assert (directory / "xen").read_bytes() == b"hypervisor"
    assert [job.image for job in engine.jobs] == ["a", "b"]


def test_host_is_asked_each_time() -> None:
    """Files of the host itself may change at any time: they are not cached."""
    engine = ScriptedEngine(copies, runtime="host")
    for _ in range(2):
        fetch(Toolbox(engine, "host"), "cp", "/opt/xen")
    assert len(engine.jobs) == 2


def test_script_that_fails() -> None:
    """What the script said is in the error, and nothing is cached."""

    def fails(job: Job) -> Exit:
        assert job.on_text is not None
        copies(job)
        job.on_text("cp: no such file\n")
        return Exit(1)

    with pytest.raises(NotInImage, match=r"cannot fetch /x from a .*: cp: no such"):
        fetch(Toolbox(ScriptedEngine(fails), "a"), "cp", "/x")
    engine = ScriptedEngine(copies)
    fetch(Toolbox(engine, "a"), "cp", "/x")
    assert engine.jobs
