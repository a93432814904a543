"""What every unit test has: a cache directory of its own."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Keep what tests keep away from what people keep."""
    directory = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("ORC_HARNESS_CACHE", str(directory))
    return directory
