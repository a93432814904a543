"""Variant: a platform that a kernel is built for; Profile: how much of a kernel.

Both are data: ``configs/*.config`` are the Kconfig fragments. Variants of one profile
differ only by their platform fragment, ``configs/platform/*.config``.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from harness.data import CONFIGS


class Platform(enum.StrEnum):
    """What a kernel patches itself for, and where we boot it."""

    NATIVE = "native"
    KVM = "kvm"
    XEN = "xen"
    VSMP = "vsmp"


class Variant(Struct, frozen=True):
    """One kernel of the matrix.

    Attributes:
        name: what people type, ``xen``; a user's .config has its file's stem.
        platform: where it boots.
        fragments: Kconfig files, merged in order over ``base``.
        base: the make target (or .config file) that the fragments refine.
    """

    name: str
    platform: Platform
    fragments: tuple[Path, ...]
    base: str | Path = "tinyconfig"


PROFILES = {
    "small": ("small.config",),
    "full": ("small.config", "full.config"),
}


def variant(platform: Platform, profile: str, extra: Sequence[Path] = ()) -> Variant:
    """Return the variant of ``profile`` for ``platform``, with ``extra`` fragments."""
    names = (*PROFILES[profile], f"platform/{platform}.config")
    fragments = (*(CONFIGS / name for name in names), *extra)
    return Variant(platform.value, platform, fragments)


def from_config(config: Path, platform: Platform) -> Variant:
    """Return the variant that a user's or a distribution's ``.config`` makes.

    Nothing is merged into it: it takes part as it is.
    """
    stem = config.name.removesuffix(".config") or config.absolute().parent.name
    name = f"{stem}-{platform}"
    return Variant(name, platform, (), base=config)
