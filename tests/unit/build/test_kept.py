"""A kept output directory: what is built in it again, and where that is stored."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from harness.artifacts import Manifest, Store, load, write_manifest
from harness.build import collect, kept, part
from harness.build.live import Live
from harness.build.tree import Tree
from harness.container.host import HostEngine
from harness.container.image import Image
from harness.errors import BuildError
from harness.progress import silent
from harness.variant import Platform, variant

FILES = {"mm/memory.c": "100644 1", "mm/mmap.c": "100644 1", "Makefile": "100644 1"}
WARNED = "{0}: warning: objtool: f+0x1: unreachable instruction\n"


class Bench:
    """Builds edits of FILES; make only says which objects it would make."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = Store(root / "store")
        self.log = ""
        self.fails = False
        self.kept: list[str] = []

    def make_whole(self, place, *, reconfigure: bool) -> None:
        self.kept = sorted(path.name for path in place.out.iterdir())
        place.log.write_text(self.log)
        (place.out / "mm").mkdir(exist_ok=True)
        for name in ("memory.o", "mmap.o"):
            (place.out / "mm" / name).touch()
        if self.fails:
            raise BuildError("mm/memory.c does not build")

    def collect(self, place, store: Store, take):
        with store.adding(place.order.key) as entry:
            (entry / "build.log").write_text(place.log.read_text())
            order = place.order
            names = (order.key, order.variant.name, "native", order.tree.name, "6")
            write_manifest(entry, Manifest(*names, {}, (), (), {}, 1.0, 1))
        return load(store.root / place.order.key)

    def build(self, **edits: str) -> Path:
        files = {**FILES, **{k.replace("_", "/"): v for k, v in edits.items()}}
        live = Live(
            Tree(self.root, str(sorted(files.items())), "linux"), files, self.root
        )
        made = kept.build(
            HostEngine(),
            live,
            variant(Platform.NATIVE, "small"),
            Image("toolchain:1", {}, created=False),
            self.store,
            silent,
            jobs=1,
        )
        return made.directory


@pytest.fixture
def bench(tmp_path, monkeypatch) -> Bench:
    monkeypatch.setenv("ORC_HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(part, "SPACE", 1)
    bench = Bench(tmp_path)
    monkeypatch.setattr(part, "make_whole", bench.make_whole)
    monkeypatch.setattr(collect, "collect", bench.collect)
    return bench


def test_an_edit_is_built_in_what_the_last_build_left(bench) -> None:
    """And stored apart: only what came of an empty directory is everybody's."""
    first = bench.build()
    assert (bench.kept, first.parent) == ([], bench.store.root)

    edited = bench.build(**{"mm_memory.c": "100644 2"})
    assert (bench.kept, edited.parent) == (["mm"], bench.root / "edits")


def test_what_was_built_is_found(bench) -> None:
    """An edit that is taken back costs nothing."""
    first = bench.build()
    bench.build(**{"mm_memory.c": "100644 2"})
    bench.kept = ["nothing was built"]

    assert bench.build() == first
    assert bench.kept == ["nothing was built"]


@pytest.mark.parametrize("edit", ["Makefile", "scripts_Makefile.build"])
def test_what_make_cannot_see_is_built_anew(bench, edit) -> None:
    """The stale-object hazard: an empty directory, the store."""
    bench.build()
    made = bench.build(**{edit: "100644 2"})
    assert (bench.kept, made.parent) == ([], bench.store.root)


def test_a_build_that_failed_is_gone_on_with(bench) -> None:
    """It counts as the last one; what comes of it is no clean build."""
    bench.fails = True
    with contextlib.suppress(BuildError):
        bench.build()
    bench.fails = False

    made = bench.build(**{"mm_memory.c": "100644 2"})

    assert (bench.kept, made.parent) == (["mm"], bench.root / "edits")


def test_what_objtool_said_is_kept_until_it_is_asked_again(bench) -> None:
    """It is silent about what is not compiled; that is no clean bill."""
    bench.log = WARNED.format("mm/memory.o") + WARNED.format("mm/mmap.o")
    bench.build()
    bench.log = "  CC      mm/mmap.o\n"

    log = (bench.build(**{"mm_mmap.c": "100644 2"}) / "build.log").read_text()
    assert WARNED.format("mm/memory.o") in log
    assert "mm/mmap.o: warning" not in log

    bench.log = "  CC      mm/memory.o\n"
    log = (bench.build(**{"mm_mmap.c": "100644 3"}) / "build.log").read_text()
    assert "warning" not in log


def test_old_edits_are_deleted_but_not_young_ones(bench, monkeypatch) -> None:
    """Somebody may be testing them."""
    monkeypatch.setattr(kept, "KEPT_EDITS", 1)
    bench.build()
    old = bench.build(**{"mm_mmap.c": "100644 2"})
    bench.build(**{"mm_mmap.c": "100644 3"})
    assert old.exists()
    monkeypatch.setattr(kept, "USED_S", -1.0)
    new = bench.build(**{"mm_mmap.c": "100644 4"})
    assert (old.exists(), new.exists()) == (False, True)
