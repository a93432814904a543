"""Builds of other versions and toolchains: which they are, and what becomes of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.artifacts import Artifacts
from harness.build.tree import Tree
from harness.container.image import Image, recipes
from harness.corpus import built, catalog
from harness.corpus.built import Build, chosen, judge
from harness.errors import BuildError, FormatError, UserError
from harness.kconfig import Setting, read_fragments
from harness.progress import silent
from harness.result import Status


def test_the_builds_that_are_listed() -> None:
    """Four series with their compilers, and clang, always; the rest at night."""
    builds = chosen("", nightly=True)

    always = {(one.toolchain, one.package) for one in builds if not one.nightly}
    assert always == {
        ("bookworm", "linux-source-6.12"),
        ("clang", "linux-source-6.12"),
        ("sid", "linux-source-7.2"),
        ("bookworm", "linux-source-6.1"),
        ("bullseye", "linux-source-5.10"),
    }
    assert {one.profile for one in builds if not one.nightly} == {"small"}
    assert {one.profile for one in builds} == {"small", "full"}


@pytest.mark.parametrize(
    "build", chosen("", nightly=True), ids=lambda build: build.name
)
def test_every_build_can_be_asked_for(build: Build) -> None:
    """Its toolchain has a recipe, and its fragments do not contradict each other."""
    assert f"toolchain-{build.toolchain}" in recipes()
    assert read_fragments(build.variant.fragments)


def test_a_feature_that_a_profile_would_rather_have_on() -> None:
    """What small.config only wishes for gives way to a build that goes without."""
    (build,) = chosen("6.12-gcc12-no-ibt", nightly=False)

    settings = [s for r in read_fragments(build.variant.fragments) for s in r.settings]
    assert [s for s in settings if s.symbol == "X86_KERNEL_IBT"] == [
        Setting("X86_KERNEL_IBT", "n")
    ]


def test_a_name_and_a_prefix() -> None:
    """A name is that build alone, a prefix those that are not for the night."""
    assert [one.name for one in chosen("6.12-clang", nightly=True)] == ["6.12-clang"]
    assert all(not one.nightly for one in chosen("", nightly=False))
    assert any(one.nightly for one in chosen("6.12", nightly=True))


def test_an_unknown_build() -> None:
    """The error lists them."""
    with pytest.raises(UserError, match=r"nothing is called 2\.4") as caught:
        chosen("2.4", nightly=True)
    assert "6.12-clang" in (caught.value.hint or "")


def test_damaged_data(tmp_path: Path) -> None:
    """The error names the file."""
    (tmp_path / "builds.toml").write_text("[b]\npackage = 'linux-source-6.1'")

    with pytest.raises(FormatError, match=r"builds\.toml holds no builds"):
        catalog.read(tmp_path / "builds.toml", Build)


def test_a_kernel_that_does_not_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an ERROR of that build: the source and image asked for were the right."""
    asked: list[str] = []

    def open_tree(*arguments: object, package: str) -> Tree:
        asked.append(package)
        return Tree(tmp_path, "0", f"{package} 6.1.1")

    def build(*arguments: object, **options: object) -> Artifacts:
        raise BuildError("the kernel does not build: no such header")

    def ensure(engine: object, recipe: built.image.Recipe, progress: object) -> Image:
        asked.append(recipe.suite)
        return Image(recipe.tag, {}, created=False)

    monkeypatch.setenv("ORC_HARNESS_CACHE", str(tmp_path))
    monkeypatch.setattr(built.image, "ensure", ensure)
    monkeypatch.setattr(built, "open_tree", open_tree)
    monkeypatch.setattr(built.kbuild, "build", build)
    wanted = Build("mine", "bullseye", "linux-source-6.1")

    stage = judge(None, wanted, 1, silent)  # type: ignore[arg-type]

    assert asked == ["bullseye", "linux-source-6.1"]
    assert (stage.variant, stage.status) == ("mine", Status.ERROR)
    assert "no such header" in stage.reason
