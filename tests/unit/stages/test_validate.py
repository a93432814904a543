"""What objtool said and what we found are joined by place."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from msgspec.structs import replace

from harness.errors import FormatError
from harness.finding import Finding, Location
from harness.kernel_build import find
from harness.progress import silent
from harness.result import Status
from harness.stages import validate
from harness.verify import check
from tests.builders.elfwriter import ElfWriter
from tests.builders.victim import victim_object

OURS = Finding("alternative/state", Location("vmlinux", "f", 4), "wrong")
THEIRS = Finding("objtool/x", Location("vmlinux.o", "f", 4), "stack state mismatch")
OTHER = Finding("objtool/x", Location("vmlinux.o", "g", 4), "unreachable instruction")


def test_one_place_is_one_finding() -> None:
    """Ours keeps its key and gets objtool's words as evidence."""
    (joined,) = validate.join([OURS], [THEIRS])

    assert joined.key == OURS.key
    assert joined.window == ("objtool/x: stack state mismatch",)


def test_what_only_objtool_sees_stays() -> None:
    """It is a finding of its own."""
    assert validate.join([OURS], [OTHER]) == [OURS, OTHER]


def test_nothing_that_is_said_is_lost() -> None:
    """Several warnings at one place, or at none, all stay."""
    nowhere = Finding("modpost/x", Location("a.ko", "(no symbol)", 0), "one")
    said = [THEIRS, replace(THEIRS, message="more"), nowhere]
    said.append(replace(nowhere, message="two"))

    joined = validate.join([OURS], said)

    assert len(joined[0].window) == 2
    assert [f.message for f in joined[1:]] == ["one", "two"]


def test_a_file_that_cannot_be_read_leaves_no_verdict(tmp_path: Path) -> None:
    """One broken file of a build is an ERROR that names it, not a PASS."""
    (tmp_path / "vmlinux.o").write_bytes(ElfWriter().build())
    (tmp_path / "broken.ko").write_bytes(b"junk")

    result = validate.stage(find(tmp_path), "here", 1, silent)

    assert result.status is Status.ERROR
    assert "broken.ko" in result.reason
    assert result.exit_code == 2


def test_what_was_judged_is_named(tmp_path: Path) -> None:
    """Packed or not, and what the build said; not what has no table."""
    (tmp_path / "a.ko").write_bytes(victim_object())
    (tmp_path / "b.ko.gz").write_bytes(gzip.compress(victim_object()))
    (tmp_path / "data.ko").write_bytes(ElfWriter().build())
    (tmp_path / "build.log").touch()

    result = validate.stage(find(tmp_path), "here", 1, silent)

    assert result.objects == ("a.ko", "b.ko", "build.log")


def test_modules_that_do_not_go_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are validated one by one, and it is said how many and why."""

    def apart(*arguments: object) -> None:
        raise FormatError("they have two orders of bytes")

    monkeypatch.setattr("harness.elf.load.load_together", apart)
    for name in ("one.ko", "two.ko"):
        (tmp_path / name).write_bytes(ElfWriter().build())

    result = validate.stage(find(tmp_path), "here", 1, silent, archived=False)

    assert result.counts["one by one"] == 2
    note = "2 files were validated one by one: they have two orders of bytes"
    assert note in result.notes


def test_the_slow_decoder_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many files there are, one note says that capstone decoded, and why."""
    monkeypatch.setattr(check, "slow_because", lambda: "it was not built")
    for name in ("one.ko", "two.ko"):
        (tmp_path / name).write_bytes(ElfWriter().build())

    slow = validate.stage(find(tmp_path), "here", 1, silent, archived=False)
    monkeypatch.setattr(check, "slow_because", lambda: "")
    fast = validate.stage(find(tmp_path), "here", 1, silent, archived=False)

    assert [note for note in slow.notes if "capstone" in note] == [
        "decoded by capstone, several times slower than Zydis: it was not built"
    ]
    assert not [note for note in fast.notes if "capstone" in note]
