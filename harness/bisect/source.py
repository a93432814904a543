"""Source: what make makes an object of: one file or, as its Makefile says, several."""

from __future__ import annotations

import re
from pathlib import Path, PurePath

from harness.bisect.repository import Repository

# perlasm (.pl) prints what is assembled; scripts/Makefile.lib copies what is shipped.
_SUFFIXES = (".c", ".S", ".rs", ".pl", ".c_shipped", ".S_shipped")
_MAKEFILES = ("Kbuild", "Makefile")


def is_there(root: Path, target: str) -> bool:
    """Tell whether the tree at ``root`` has what ``target`` is made of."""
    alone = any((root / file).exists() for file in _files(target))
    return alone or is_composite(root, target)


def is_composite(root: Path, target: str) -> bool:
    """Tell whether it is made of objects, which are kept where it is made anew."""
    listed = re.compile(_composite(target), re.MULTILINE)
    makefiles = [root / path for path in _makefiles(target)]
    return any(
        listed.search(path.read_text(errors="replace"))
        for path in makefiles
        if path.is_file()
    )


def was_ever(repository: Repository, target: str) -> bool:
    """Tell whether any commit of ``repository`` has, or had, it."""
    return repository.touches(_files(target)) or repository.touches(
        _makefiles(target), _composite(target)
    )


def _files(target: str) -> list[str]:
    return [PurePath(target).with_suffix(suffix).as_posix() for suffix in _SUFFIXES]


def _makefiles(target: str) -> list[str]:
    return [PurePath(target).with_name(name).as_posix() for name in _MAKEFILES]


def _composite(target: str) -> str:
    """Return what matches ``kvm-y +=``, ``kvm-objs :=`` and ``kvm-$(CONFIG_SMM) +=``."""
    return rf"^{re.escape(PurePath(target).stem)}-(y|objs|[$][(])"
