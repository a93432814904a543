"""Orders: what decides whether two builds are one."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from harness import cache
from harness.build.tree import Tree
from harness.build.workplace import Limit, environment, read_order, sweep
from harness.container.image import Image
from harness.errors import UserError
from harness.variant import Platform, Variant, from_config, variant

TREE = Tree(Path("/somewhere"), "1234", "linux")
IMAGE = Image("toolchain:1", {"gcc": "12.2.0"}, created=False)
NATIVE = variant(Platform.NATIVE, "small")


def _key(tree: Tree = TREE, wanted: Variant = NATIVE, image: Image = IMAGE) -> str:
    return read_order(tree, wanted, image, Limit()).key


@pytest.mark.parametrize(
    "other",
    [
        {"tree": replace(TREE, digest="5678")},
        {"wanted": variant(Platform.XEN, "small")},
        {"wanted": variant(Platform.NATIVE, "full")},
        {"wanted": replace(NATIVE, base="allnoconfig")},
        {"image": replace(IMAGE, identity={"gcc": "14.2.0"})},
        {"image": replace(IMAGE, tag="toolchain:2")},
    ],
)
def test_every_input_is_in_the_key(other):
    """Another tree, request or compiler is another kernel."""
    assert _key(**other) != _key()


@pytest.mark.parametrize(
    "other",
    [
        {"tree": replace(TREE, source=Path("/elsewhere"))},
        {"image": replace(IMAGE, created=True)},
    ],
)
def test_circumstances_are_not_in_the_key(other):
    """Where the source lies and when the image was made change nothing."""
    assert _key(**other) == _key()


def test_comments_in_a_fragment_are_not_in_the_key(tmp_path):
    """A better explanation rebuilds nothing."""
    keys = set()
    for comment in ("", "# because\n\n"):
        fragment = tmp_path / "a.config"
        fragment.write_text(f"{comment}CONFIG_SMP=y\n")
        keys.add(_key(wanted=replace(NATIVE, fragments=(fragment,))))
    assert len(keys) == 1


def test_a_users_config_is_in_the_key_by_its_content(tmp_path):
    """An edited .config is another kernel."""
    path = tmp_path / "mine.config"
    keys = set()
    for text in ("CONFIG_SMP=y\n", "# CONFIG_SMP is not set\n"):
        path.write_text(text)
        keys.add(_key(wanted=from_config(path, Platform.NATIVE)))
    assert len(keys) == 2


def test_a_missing_config_is_the_users_error(tmp_path):
    """The path is in the message."""
    with pytest.raises(UserError, match=r"none\.config"):
        _key(wanted=from_config(tmp_path / "none.config", Platform.NATIVE))


def test_the_environment_fixes_what_would_be_in_the_kernel():
    """Time, user, host and version never differ, and ccache goes where it may."""
    fixed = environment("/ccache")
    assert fixed["CCACHE_DIR"] == "/ccache"
    assert fixed["LOCALVERSION"] == ""
    assert {f"KBUILD_BUILD_{name}" for name in ("TIMESTAMP", "USER", "HOST")} <= set(
        fixed
    )


def test_sweep_deletes_what_nobody_builds_in(tmp_path):
    """A held lock protects a directory; our own earlier ones are stale."""
    for name in ("dead-1", "busy-1", "ours-1"):
        (tmp_path / name / "out").mkdir(parents=True)
    with cache.locked(tmp_path / "busy.lock"), cache.locked(tmp_path / "ours.lock"):
        sweep(tmp_path, "ours")
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["busy-1"]
