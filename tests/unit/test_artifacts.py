"""The store publishes an entry whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.artifacts import Manifest, Store, load, write_manifest
from harness.errors import FormatError

MANIFEST = Manifest(
    key="k1",
    variant="xen",
    platform="xen",
    tree="linux",
    kernel_release="6.12.0",
    toolchain={"gcc": "12"},
    modules=("lib/crc7.ko",),
    objects=(),
    sha256={"vmlinux": "00"},
    seconds=1.0,
    compiled=3,
)


def test_a_finished_entry_is_found(tmp_path: Path) -> None:
    """What was added comes back equal, with its paths."""
    store = Store(tmp_path)

    with store.adding("k1") as directory:
        write_manifest(directory, MANIFEST)
    found = store.find("k1")

    assert found is not None
    assert found.manifest == MANIFEST
    assert found.modules == (tmp_path / "k1/modules/lib/crc7.ko",)


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    """An exception deletes the scratch directory and publishes nothing."""
    store = Store(tmp_path)

    def build_half() -> None:
        with store.adding("k1") as directory:
            (directory / "vmlinux").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        build_half()

    assert store.find("k1") is None
    assert list(tmp_path.iterdir()) == []


def test_the_second_to_finish_loses_silently(tmp_path: Path) -> None:
    """Two builds of one key leave one entry."""
    store = Store(tmp_path)

    with store.adding("k1") as one, store.adding("k1") as two:
        write_manifest(one, MANIFEST)
        write_manifest(two, MANIFEST)

    assert [path.name for path in tmp_path.iterdir()] == ["k1"]


def test_a_foreign_directory_is_a_format_error(tmp_path: Path) -> None:
    """The message says what to use instead."""
    with pytest.raises(FormatError, match="not a build of ours"):
        load(tmp_path)


def test_a_manifest_that_is_no_text(tmp_path: Path) -> None:
    """One damaged byte is a clear error, too."""
    (tmp_path / "manifest.json").write_bytes(b'{"key": "\xff"}')

    with pytest.raises(FormatError, match="not a build of ours"):
        load(tmp_path)
