"""What Debian has newer than the cache, asked of the real mirror."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from harness.build import tree
from harness.container import apt
from harness.container import image as images
from harness.container.engine import connect
from harness.container.job import Engine

pytestmark = pytest.mark.build

OLD = "s/^Version: .*/Version: 0.1/"
AGED = """\
FROM {tag}
RUN sed -i '/^Package: make$/,/^$/{old}' /var/lib/dpkg/status
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with connect() as found:
        if found.runtime == "host":
            pytest.skip("the host runtime has no images")
        yield found


def test_an_old_package_is_seen(engine: Engine) -> None:
    """An image with nothing newer has none; one whose make is ancient has that."""
    recipe = images.toolchain()
    images.ensure(engine, recipe)
    aged = replace(recipe, name="test-aged")
    text = AGED.format(tag=recipe.tag, old=OLD)
    engine.build_image(
        {"Dockerfile": text}, aged.tag, on_text=lambda _: None, timeout_s=300
    )
    try:
        found = {*apt.newer(engine, aged)} - {*apt.newer(engine, recipe)}
    finally:
        engine.remove_image(aged.tag)

    (make,) = found
    assert make.startswith("make 0.1 -> ")


def test_a_source_is_fetched_if_there_is_a_newer_one(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And only then: what is Debian's newest stays as it is."""
    toolchain = images.ensure(engine, images.toolchain())
    monkeypatch.setenv("ORC_HARNESS_CACHE", str(tmp_path))
    tmp_path.chmod(0o755)
    directory = tmp_path / "trees" / tree.PACKAGE
    directory.mkdir(parents=True)
    (directory / "NAME").write_text(f"{tree.PACKAGE} 6.12.1-1\n")

    newest = tree.refetch(engine, toolchain, tree.PACKAGE)
    assert newest == tree.kept(tree.PACKAGE) != f"{tree.PACKAGE} 6.12.1-1"
    assert (directory / "source/Makefile").exists()

    (directory / "source/Makefile").unlink()
    assert tree.refetch(engine, toolchain, tree.PACKAGE) == newest
    assert not (directory / "source/Makefile").exists(), "it was not fetched again"
