"""The guest's archive, and the programs compiled for it."""

from __future__ import annotations

import lzma
import stat
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.boot import initramfs
from harness.boot.initramfs import Toolbox, cpio, guest, program
from harness.container.job import Exit, Job
from harness.errors import InfraError
from tests.builders.machines import ScriptedEngine


@dataclass(frozen=True)
class Entry:
    """One file of an archive, as the kernel's unpacker sees it."""

    mode: int
    data: bytes


def unpack(archive: bytes) -> dict[str, Entry]:
    """Read a newc archive as init/initramfs.c does: 13 hex words, name, data."""
    entries: dict[str, Entry] = {}
    at = 0
    while at < len(archive):
        if not archive[at]:
            at += 1  # the kernel skips zeros between archives
            continue
        head = archive[at : at + 110]
        assert head[:6] == b"070701"
        words = [int(head[i : i + 8], 16) for i in range(6, 110, 8)]
        name = archive[at + 110 : at + 110 + words[11]].rstrip(b"\0").decode()
        start = (at + 110 + words[11] + 3) & ~3
        entries[name] = Entry(words[1], archive[start : start + words[6]])
        at = (start + words[6] + 3) & ~3
    return entries


def test_archive_round_trip() -> None:
    """What was put in comes out, with its directories before it."""
    files = {"init": b"\x7fELF", "usr/lib/a": b"12345", "empty": b""}
    entries = unpack(cpio(files))
    names = [name for name in entries if name != "TRAILER!!!"]
    assert names == ["dev", "proc", "usr", "usr/lib", "empty", "init", "usr/lib/a"]
    assert {name: entries[name].data for name in files} == files
    assert stat.S_ISDIR(entries["usr"].mode)
    assert entries["init"].mode == stat.S_IFREG | 0o755


def test_archives_can_be_joined() -> None:
    """Sizes are whole blocks, so that a second archive can follow the first."""
    first = cpio({"a": b"1"})
    assert len(first) % 512 == 0
    assert {"a", "b"} <= set(unpack(first + cpio({"b": b"2"})))


def test_modules_are_put_in_plain(tmp_path: Path) -> None:
    """A packed module goes in unpacked, by the name the guest will unload."""
    (tmp_path / "crc7.ko.xz").write_bytes(lzma.compress(b"\x7fELF crc7"))
    (tmp_path / "crc16.ko").write_bytes(b"\x7fELF crc16")
    entries = unpack(guest(b"init", sorted(tmp_path.iterdir())))
    assert entries["modules/crc7.ko"].data == b"\x7fELF crc7"
    assert entries["modules/crc16.ko"].data == b"\x7fELF crc16"


def test_few_of_many_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more modules than a guest takes, the smallest that stand alone go in."""
    monkeypatch.setattr(initramfs, "MODULES_LIMIT", 2)
    alone, needy = b"\0license=GPL\0depends=\0", b"\0license=GPL\0depends=b\0"
    for name, data in {
        "a.ko": needy,
        "b.ko": alone,
        "c.ko": alone + bytes(2),
        "d.ko": alone + bytes(1),
    }.items():
        (tmp_path / name).write_bytes(data)
    entries = unpack(guest(b"init", sorted(tmp_path.glob("*.ko"))))
    assert [name for name in entries if name.endswith(".ko")] == [
        "modules/b.ko",
        "modules/d.ko",
    ]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's cache out of it."""
    monkeypatch.setenv("ORC_HARNESS_CACHE", str(tmp_path / "cache"))


def compiler(job: Job) -> Exit:
    """Act as the compiler: write what it was asked for."""
    Path(job.argv[job.argv.index("-o") + 1]).write_bytes(b"\x7fELF compiled")
    return Exit(0)


def test_program_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same source in the same image is compiled once, another image again."""
    engine = ScriptedEngine(compiler)
    for image in ("a", "a", "b"):
        assert program(Toolbox(engine, image), "init") == b"\x7fELF compiled"
    assert [job.image for job in engine.jobs] == ["a", "b"]
    monkeypatch.setattr(initramfs, "COMPILE", (*initramfs.COMPILE, "-g"))
    program(Toolbox(engine, "a"), "init")
    assert len(engine.jobs) == 3


def test_every_program_has_its_sources() -> None:
    """The compiler finds each source, and can read it whatever its owner's umask."""
    seen: dict[str, list[str]] = {}

    def checks(job: Job) -> Exit:
        sources = [Path(word) for word in job.argv if word.endswith((".c", ".S"))]
        assert all(source.stat().st_mode & 0o444 == 0o444 for source in sources)
        seen[Path(job.argv[job.argv.index("-o") + 1]).name] = [s.name for s in sources]
        return compiler(job)

    for name in ("init", "host", "probe"):
        program(Toolbox(ScriptedEngine(checks), "a"), name)
    assert seen["host"] == ["host.c"]
    assert seen["probe"] == ["probe.S"]
    assert "init.c" in seen["init"]


def test_compiler_that_fails() -> None:
    """The compiler's words are in the error, and nothing is cached."""

    def fails(job: Job) -> Exit:
        assert job.on_text is not None
        job.on_text("init.c:1: error: no stdio.h\n")
        return Exit(1)

    with pytest.raises(InfraError, match=r"exit 1, deadline 120 s\)\ninit.c:1: error"):
        program(Toolbox(ScriptedEngine(fails), "a"), "init")
    assert program(Toolbox(ScriptedEngine(compiler), "a"), "init")
