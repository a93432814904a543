"""Time the shadow stack: python -m bench.shadow BUILD_DIR [--platform P] [--times N].

Boots are alternated, with a plugin that does nothing and with the one that checks; CPU
time is QEMU's own, so that a busy machine disturbs it little.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from harness import kernel_build
from harness.boot.boot import Kernel
from harness.boot.initramfs import Toolbox
from harness.boot.machine import MachineConfig
from harness.boot.shadow.shadow import check, sorted_table
from harness.cli.console import board
from harness.container import image
from harness.container.engine import connect
from harness.elf.load import load
from harness.variant import Platform


def measure(toolbox: Toolbox, kernel: Kernel, platform: Platform, times: int) -> None:
    """Print seconds of each boot, and what the checks cost."""
    program = load(kernel.vmlinux)
    orc = sorted_table(program)
    cpu: dict[str, list[float]] = {"idle": [], "checking": []}
    wall: dict[str, list[float]] = {"idle": [], "checking": []}
    verified = 0
    for _ in range(times):
        for mode, spent in cpu.items():
            more = ("idle=on",) if mode == "idle" else ()
            config = MachineConfig()
            made = check(toolbox, kernel, platform, config, program, orc, *more)
            spent.append(made.record.counts["cpu_ms"] / 1000)
            wall[mode].append(made.seconds)
            verified = max(verified, int(made.record.verified.sum()))
            print(f"{mode}: {spent[-1]:.2f} s of CPU, {made.seconds:.2f} s", flush=True)
    plain, checked = (statistics.median(spent) for spent in cpu.values())
    slow, slower = (statistics.median(spent) for spent in wall.values())
    print(
        f"checked {verified / 1e6:.1f} M, {verified / (checked - plain) / 1e6:.1f} M/s"
    )
    print(f"CPU x{checked / plain:.2f}, wall x{slower / slow:.2f}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("build", type=Path)
    parser.add_argument("--platform", type=Platform, default=Platform.NATIVE)
    parser.add_argument("--times", type=int, default=3)
    asked = parser.parse_args()
    found = kernel_build.find(asked.build)
    assert found.bzimage, f"{asked.build} has no bzImage"
    kernel = Kernel(found.bzimage, found.kernels[0], found.modules)
    with connect("auto") as engine, board() as lines:
        made = image.ensure(engine, image.machine(), lines("machine"))
        measure(Toolbox(engine, made.tag), kernel, asked.platform, asked.times)


if __name__ == "__main__":
    main()
