"""Variants differ by their platform; a user's .config has a name of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.variant import PROFILES, Platform, from_config, variant


@pytest.mark.parametrize("profile", PROFILES)
def test_variants_differ_only_by_their_platform(profile: str) -> None:
    """All but the last fragment are the profile's, and every file is there."""
    variants = [variant(platform, profile) for platform in Platform]

    assert len({v.fragments[:-1] for v in variants}) == 1
    assert len({v.fragments[-1] for v in variants}) == len(Platform)
    assert all(path.is_file() for v in variants for path in v.fragments)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ("/boot/config-6.12.57+deb13-amd64", "config-6.12.57+deb13-amd64-xen"),
        ("/src/linux/.config", "linux-xen"),
        ("mine.config", "mine-xen"),
    ],
)
def test_a_config_is_named_by_its_file_and_platform(config: str, name: str) -> None:
    """Two versions, or two platforms, never share a name."""
    assert from_config(Path(config), Platform.XEN).name == name
