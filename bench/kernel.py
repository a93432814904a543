"""Make a kernel to measure on: python -m bench.kernel small|defconfig OUT.

It is built in the toolchain container like all others, but its output directory is
kept: objtool is to see vmlinux.o as it was linked before objtool. ``defconfig`` is
x86_64_defconfig that may run on all platforms.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from harness.build.symbols import read_symbols
from harness.build.workplace import Limit, environment, read_order
from harness.cache import cache_dir
from harness.cli.console import board
from harness.container.job import Limits, Mount, own
from harness.kconfig import render
from harness.matrix import Request, workshop
from harness.stages.shop import Shop
from harness.variant import Platform, variant

PLATFORMS = """\
CONFIG_HYPERVISOR_GUEST=y
CONFIG_PARAVIRT=y
CONFIG_XEN=y
CONFIG_XEN_PV=y
CONFIG_KVM_GUEST=y
CONFIG_X86_EXTENDED_PLATFORM=y
CONFIG_X86_VSMP=y
"""
_MAKE = """\
set -e
src=$1 out=$2 base=$3 jobs=$4
make -s -C "$src" O="$out" "$base"
cat "$out/wanted" >> "$out/.config"
make -s -C "$src" O="$out" olddefconfig
exec make -C "$src" O="$out" "-j$jobs" vmlinux
"""


def make(profile: str, out: Path, jobs: int) -> None:
    """Build ``profile`` in ``out``.

    Raises:
        SystemExit: it does not build.
    """
    out.mkdir(parents=True, exist_ok=True)
    with board() as lines, workshop(Request(), lines) as shop:
        engine, progress = shop.engine, lines("bench")
        ccache = cache_dir() / f"ccache-{engine.user.replace(':', '-')}"
        ccache.mkdir(parents=True, exist_ok=True)
        mounts = (
            Mount(shop.tree.source, "/src"),
            Mount(out.absolute(), "/out", writable=True),
            Mount(ccache, "/ccache", writable=True),
        )
        base, wanted = _config(profile, shop)
        (out / "wanted").write_text(wanted)
        for path in (out, out / "wanted", ccache):
            own(path, engine.user)
        paths = map(engine.path, mounts[:2])
        ended = engine.run(
            shop.toolchain.tag,
            ["sh", "-c", _MAKE, "make", *paths, base, str(jobs)],
            mounts=mounts,
            limits=Limits(8192, 4096, float(jobs), 7200),
            env=environment(engine.path(mounts[2])),
            on_text=lambda text: progress(text.strip().rpartition("\n")[2]),
        )
    if ended.returncode:
        raise SystemExit(f"{profile} does not build in {out}")


def _config(profile: str, shop: Shop) -> tuple[str, str]:
    """Return the target to start from, and what is put on top."""
    if profile == "defconfig":
        return "x86_64_defconfig", PLATFORMS
    native = variant(Platform.NATIVE, profile)
    order = read_order(shop.tree, native, shop.toolchain, Limit())
    return order.base, render(order.requests, read_symbols(shop.tree.source).names)


def main() -> None:
    """Build the kernel that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("profile", choices=("small", "defconfig"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    make(arguments.profile, arguments.out, arguments.jobs)


if __name__ == "__main__":
    main()
