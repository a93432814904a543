"""What changed between two commits tells what of a kept build is worth nothing."""

from __future__ import annotations

import pytest

from harness.build.stale import Stale, stale


@pytest.mark.parametrize(
    ("path", "linked", "one"),
    [
        ("mm/memory.c", Stale.NOTHING, Stale.NOTHING),
        ("include/linux/mm.h", Stale.NOTHING, Stale.NOTHING),
        ("arch/x86/lib/Makefile", Stale.ALL, Stale.NOTHING),
        ("fs/Kbuild", Stale.ALL, Stale.NOTHING),
        ("tools/objtool/orc_gen.c", Stale.ALL, Stale.NOTHING),
        ("scripts/sorttable.c", Stale.NOTHING, Stale.NOTHING),
        ("scripts/link-vmlinux.sh", Stale.NOTHING, Stale.NOTHING),
        ("scripts/mod/modpost.c", Stale.ALL, Stale.CONFIG),
        ("Makefile", Stale.ALL, Stale.CONFIG),
        ("arch/x86/Makefile", Stale.ALL, Stale.CONFIG),
        ("lib/Kconfig.debug", Stale.CONFIG, Stale.CONFIG),
        ("kernel/configs/tiny.config", Stale.CONFIG, Stale.CONFIG),
        ("arch/x86/configs/x86_64_defconfig", Stale.CONFIG, Stale.CONFIG),
        ("Documentation/x86/orc-unwinder.rst", Stale.NOTHING, Stale.NOTHING),
    ],
)
def test_one_path(path, linked, one) -> None:
    """For a linked kernel more is stale than for one object that is made anew."""
    assert stale([path], linked=True) is linked
    assert stale([path], linked=False) is one


def test_the_worst_counts() -> None:
    """And none is nothing."""
    assert stale(["mm/memory.c", "lib/Kconfig"], linked=True) is Stale.CONFIG
    assert stale([], linked=True) is Stale.NOTHING
