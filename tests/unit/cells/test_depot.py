"""The depot: where machines leave kernels and results for each other."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest

from harness.artifacts import Artifacts, Manifest, Store, load, write_manifest
from harness.cells.depot import Depot, open_depot
from harness.errors import InfraError
from tests.unit.cells.test_night import kept

OTHERS = "ORC_HARNESS_TEST_DEPOT"  # URLs of depots; docs/nightly.md starts one with S3


def a_kernel(store: Store, key: str) -> Artifacts:
    """Put a small kernel into ``store``."""
    digest = (
        "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"  # of "a"
    )
    with store.adding(key) as entry:
        (entry / "modules/fs").mkdir(parents=True)
        (entry / "vmlinux").write_text("a")
        (entry / "modules/fs/x.ko").write_text("x")
        texts = (key, "native", "native", "tree", "6.12")
        sums = {"vmlinux": digest}
        write_manifest(entry, Manifest(*texts, {}, ("fs/x.ko",), (), sums, 1.0, 1))
    return load(store.root / key)


@pytest.fixture(params=["file", "memory", *os.environ.get(OTHERS, "").split()])
def depot(request: pytest.FixtureRequest, tmp_path: Path) -> Depot:
    """A directory, a memory, and a place of its own at every URL that is named."""
    where = tmp_path / "depot"
    ours = {"file": str(where), "memory": f"memory://{where}"}
    return open_depot(ours.get(request.param, f"{request.param}/{uuid.uuid4().hex}"))


def test_a_kernel_travels(depot: Depot, tmp_path: Path) -> None:
    """Whole, and once; there is none that nobody has left."""
    made = a_kernel(Store(tmp_path / "here"), "k")
    there = Store(tmp_path / "there")

    assert depot.take("k", there) is None
    depot.put(made)
    depot.put(made)
    taken = depot.take("k", there)

    assert taken is not None
    assert taken.manifest == made.manifest
    assert (taken.directory / "modules/fs/x.ko").read_text() == "x"
    assert [
        Path(name).name
        for name in depot.files.ls(f"{depot.root}/kernels", detail=False)
    ] == ["k.tar.gz"]


def test_a_damaged_kernel_is_not_taken(depot: Depot, tmp_path: Path) -> None:
    """Another content than its manifest says, or half an archive: nothing is stored."""
    made = a_kernel(Store(tmp_path / "here"), "k")
    (made.directory / "vmlinux").write_text("b")
    depot.put(made)
    there = Store(tmp_path / "there")

    with pytest.raises(InfraError, match="damaged vmlinux"):
        depot.take("k", there)
    depot.files.pipe_file(depot._kernel("k"), b"\x1f\x8b")
    with pytest.raises(InfraError, match=r"the depot .* failed"):
        depot.take("k", there)
    assert there.keys() == frozenset()


def test_a_result_travels(depot: Depot) -> None:
    """The last one that was left is the one that is found."""
    assert depot.find("key of a") is None
    for night in ("one", "two"):
        depot.keep(kept("a", night))
    assert depot.find("key of a") == kept("a", "two")
