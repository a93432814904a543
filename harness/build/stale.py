"""Stale: what make would keep between two commits and must not. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from pathlib import PurePosixPath


class Stale(enum.IntEnum):
    """How much of an output directory another commit's build cannot be trusted with."""

    NOTHING = 0
    CONFIG = 1  # the .config: it is made anew, as in an empty directory
    ALL = 2


# Kconfig asks the compiler through these, and arch/x86/Makefile chooses its flags.
_CONFIGURES = ("scripts/", "arch/x86/Makefile", "Makefile")
# What changes objects that depend on nothing of it, as make sees it.
_TOOLS = ("tools/objtool/", "tools/lib/", "tools/arch/x86/", "tools/build/", "scripts/")
# Only the last link runs these, and vmlinux is always linked anew; make builds them
# where their source changed (scripts/Makefile, scripts/Makefile.vmlinux of v6.12).
_LINK = ("scripts/sorttable.", "scripts/kallsyms.c", "scripts/link-vmlinux.sh")


def stale(paths: Iterable[str], *, linked: bool) -> Stale:
    """Return what is stale behind a change of ``paths``.

    A single object (not ``linked`` of others) is deleted before it is made, so that only
    its configuration can be.
    """
    return max((_one(path, linked=linked) for path in paths), default=Stale.NOTHING)


def _one(path: str, *, linked: bool) -> Stale:
    if path.startswith(_LINK):
        return Stale.NOTHING
    name = PurePosixPath(path).name
    makefile = name.startswith(("Makefile", "Kbuild")) or name.endswith(".mk")
    if linked and (makefile or path.startswith(_TOOLS)):
        return Stale.ALL
    if (
        name.startswith("Kconfig")
        or name.endswith((".config", "defconfig"))
        or path.startswith(_CONFIGURES)
    ):
        return Stale.CONFIG
    return Stale.NOTHING
