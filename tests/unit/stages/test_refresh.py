"""What of Debian's is made anew, and what stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.build import tree
from harness.container import apt, image
from harness.container.image import Image, Recipe
from harness.errors import InfraError
from harness.stages.refresh import Refreshed, refresh
from tests.unit.container.test_image import RecordingEngine


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecordingEngine:
    """Two images are there, and one source."""
    monkeypatch.setenv("ORC_HARNESS_CACHE", str(tmp_path))
    (tmp_path / "trees/linux-source-6.12").mkdir(parents=True)
    (tmp_path / "trees/linux-source-6.12/NAME").write_text(
        "linux-source-6.12 6.12.1-1\n"
    )
    engine = RecordingEngine()
    for recipe in (image.toolchain("sid"), image.machine()):
        engine.tags[recipe.tag] = "sha256:old"
    return engine


def test_only_what_is_there_and_old(
    engine: RecordingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image is made anew if a package is newer, a source if its version is."""
    made: list[str] = []

    def newer(_: object, recipe: Recipe) -> tuple[str, ...]:
        return ("gcc 1 -> 2",) if recipe.name == "toolchain-sid" else ()

    def ensure(_: object, recipe: Recipe, *_more: object, **how: bool) -> Image:
        made.append(f"{recipe.name} {how}")
        return Image(recipe.tag, {}, created=True)

    monkeypatch.setattr(apt, "newer", newer)
    monkeypatch.setattr(image, "ensure", ensure)
    monkeypatch.setattr(tree, "refetch", lambda *_: "linux-source-6.12 6.12.2-1")

    found = refresh(
        engine, {"linux-source-6.12": "bookworm", "linux-source-5.10": "bullseye"}
    )

    assert sorted(found, key=lambda one: one.what) == [
        Refreshed(
            "linux-source-6.12",
            ("linux-source-6.12 6.12.1-1 -> linux-source-6.12 6.12.2-1",),
        ),
        Refreshed("machine"),
        Refreshed("toolchain-sid", ("gcc 1 -> 2",)),
    ]
    assert made == ["toolchain-sid {'rebuild': True}", "toolchain-bookworm {}"]


def test_what_fails_stops_no_other(
    engine: RecordingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each says why; what was there stays."""

    def newer(_: object, recipe: Recipe) -> tuple[str, ...]:
        raise InfraError(f"no mirror for {recipe.name}")

    monkeypatch.setattr(apt, "newer", newer)
    monkeypatch.setattr(tree, "refetch", lambda *_: "linux-source-6.12 6.12.1-1")
    monkeypatch.setattr(
        image, "ensure", lambda _, recipe, *__: Image(recipe.tag, {}, False)
    )

    found = refresh(engine, {"linux-source-6.12": "bookworm"})

    errors = {one.what: one.error for one in found}
    assert errors["machine"] == "no mirror for machine"
    assert errors["linux-source-6.12"] == ""
    assert "sha256:old" in engine.tags.values()
