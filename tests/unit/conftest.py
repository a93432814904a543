"""What every unit test has: a cache directory of its own, and its time."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest

# How long an example takes says how busy the machine is, and nothing of us.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")


@pytest.fixture(autouse=True)
def cache(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Keep what tests keep away from what people keep."""
    directory = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("ORC_HARNESS_CACHE", str(directory))
    return directory
