"""A configuration is named by what olddefconfig makes of it, and built from that."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.bisect.config import probe
from harness.bisect.config.probe import ConfigProber
from harness.bisect.sight import ONCE, Sight, Wanted
from harness.bisect.workbench import Item
from harness.build.stale import Stale
from harness.build.tree import Tree
from harness.build.workplace import Order
from harness.container.image import Image
from harness.progress import silent
from harness.variant import Platform

TREE = Tree(Path("/somewhere"), "1234", "linux")


class Bench:
    """Stands in for the workbench: remembers what it was given, and asks what is stale."""

    def __init__(self, place: Path) -> None:
        self.engine = None
        self.images = {"gcc": Image("toolchain:1", {}, created=False)}
        self.place, self.jobs, self.progress = place, 2, silent
        self.items: list[Item] = []
        self.stale: list[Stale] = []

    def look(
        self,
        item: Item,
        wanted: Wanted,
        stale: Callable[[str], Stale],
        *,
        clean: bool,
    ) -> Sight:
        self.items.append(item)
        self.stale += [stale(item.name), stale("another")]
        return Sight(item.name, (), clean=clean, runs=wanted.runs)


@pytest.fixture
def prober(tmp_path, monkeypatch) -> ConfigProber:
    """A tree whose olddefconfig adds one option; ``place.out`` is what it wrote."""

    @contextlib.contextmanager
    def opened(engine, order: Order, directory, progress) -> Iterator[SimpleNamespace]:
        assert directory == tmp_path / "place" / "gcc"
        yield SimpleNamespace(order=order)

    def resolve(place: SimpleNamespace) -> Path:
        path = tmp_path / "out.config"
        path.write_text(f"{place.order.base}CONFIG_MORE=y\n")
        return path

    monkeypatch.setattr(probe.part, "opened", opened)
    monkeypatch.setattr(probe.part, "resolve", resolve)
    bench = Bench(tmp_path / "place")
    return ConfigProber(TREE, Platform.XEN, bench, tmp_path)  # type: ignore[arg-type]


def test_a_configuration_is_what_it_comes_to(prober) -> None:
    """Its name is the hash of that, by which it is read again."""
    name = prober.resolve("CONFIG_A=y\n")

    whole = "CONFIG_A=y\nCONFIG_MORE=y\n"
    assert name == hashlib.sha256(whole.encode()).hexdigest()
    assert prober.read(name) == whole


def test_it_is_built_from_that(prober) -> None:
    """On its platform; what was kept of another one has to be configured anew."""
    name = prober.resolve("CONFIG_A=y\n")

    sight = prober.look(name, Wanted("K", 3), clean=True)

    bench = prober.workbench
    (item,) = bench.items
    assert (item.name, item.tree, item.variant.platform) == (name, TREE, Platform.XEN)
    assert item.variant.base.read_text() == prober.read(name)
    assert bench.stale == [Stale.NOTHING, Stale.CONFIG]
    assert (sight.commit, sight.clean, sight.runs) == (name, True, 3)
    assert prober.look(name, ONCE).clean is False
