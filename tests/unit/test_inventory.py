"""The cache's inventory: what is counted, and what is pruned."""

from __future__ import annotations

import os
import time

import pytest

from harness import cache, inventory
from harness.errors import InfraError

NOW = time.time()
DAY_S = 86400.0


@pytest.fixture
def root(tmp_path):
    for name, days in (("store/old", 9), ("store/new", 2), ("trees/young", 0)):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_bytes(bytes(1 << 16))
        os.utime(tmp_path / name, (NOW - days * DAY_S,) * 2)
    (tmp_path / "runs.sqlite").write_bytes(bytes(1 << 12))
    os.utime(tmp_path / "runs.sqlite", (0, 0))
    return tmp_path


def _left(root):
    return {path.relative_to(root).as_posix() for path in root.glob("*/*/")}


def test_kinds_are_summed(root):
    """The greatest first."""
    kinds = inventory.kinds(inventory.entries(root))
    assert [(kind.name, kind.entries) for kind in kinds] == [
        ("builds", 2),
        ("sources", 1),
        ("kept", 1),
    ]
    assert kinds[0].size_bytes >= 2 << 16


def test_a_file_with_two_names_is_there_once(root):
    """Snapshots of one tree share their files."""
    before = inventory.size_bytes(root / "store")
    os.link(root / "store/old/file", root / "store/new/same")
    assert inventory.size_bytes(root / "store") == before


def test_what_is_older_goes(root):
    """What this machine alone knows is kept, however old."""
    inventory.prune(root, older_s=5 * DAY_S, to_bytes=None)
    assert _left(root) == {"store/new", "trees/young"}
    assert (root / "runs.sqlite").exists()


def test_a_prune_that_is_cut_short_leaves_no_half(root, monkeypatch):
    """What is not deleted whole is not found under its name any more."""
    monkeypatch.setattr(inventory.shutil, "rmtree", lambda *_, **__: None)
    inventory.prune(root, older_s=5 * DAY_S, to_bytes=None)
    assert not (root / "store/old").exists()


def test_the_oldest_go_until_the_rest_fits(root):
    """But what was used within the hour stays, though it does not fit."""
    (gone,) = inventory.prune(root, older_s=None, to_bytes=150_000)
    assert gone.path.name == "old"
    inventory.prune(root, older_s=None, to_bytes=0)
    assert _left(root) == {"trees/young"}


def test_a_dry_run_deletes_nothing(root):
    """It says the same."""
    said = inventory.prune(root, older_s=5 * DAY_S, to_bytes=None, dry=True)
    assert [entry.path.name for entry in said] == ["old"]
    assert "store/old" in _left(root)


def test_nothing_is_pruned_under_somebody(root, monkeypatch):
    """A build that runs holds it all."""
    monkeypatch.setattr(cache, "_holding", [])
    cache.hold(root)
    with pytest.raises(InfraError, match="in use"):
        inventory.prune(root, older_s=0, to_bytes=None)
    assert "store/old" in _left(root)
    os.close(cache._holding[0])
    inventory.prune(root, older_s=0, to_bytes=None)
    assert "store/old" not in _left(root)


def test_results_of_nights_go_what_runs_and_bisections_know_stays(root):
    """What can be made again is no more than its age."""
    again = ("cells/a.json", "nights/a.json", "images/a.json", "pytest/a/x")
    known = ("bisect/a.jsonl", "unsaved/a.json", "history.sqlite")
    for name in (*again, *known):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
        for each in (path, path.parent):
            os.utime(each, (0, 0))

    inventory.prune(root, older_s=5 * DAY_S, to_bytes=None)

    assert [name for name in again if (root / name).exists()] == []
    assert [name for name in known if not (root / name).exists()] == []


def test_what_cannot_be_deleted_is_not_said_to_be_gone(root, monkeypatch):
    """It is another user's, most likely."""

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(inventory.shutil, "rmtree", refuse)
    with pytest.raises(InfraError, match="1 of 1 entries cannot be deleted"):
        inventory.prune(root, older_s=5 * DAY_S, to_bytes=None)
