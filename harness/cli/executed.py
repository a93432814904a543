"""``orc-harness corpus --executed``: does a boot see the entries that are wrong?"""

from __future__ import annotations

from harness.boot.boot import Kernel
from harness.boot.initramfs import Toolbox
from harness.cli import options
from harness.cli.console import OUT, board
from harness.container import image
from harness.container.engine import connect
from harness.corpus.executed import measure
from harness.elf.load import load
from harness.errors import ExitCode, UserError
from harness.kernel_build import KernelBuild
from harness.variant import Platform


def command(
    build: KernelBuild,
    seed: int,
    count: int,
    runtime: options.Runtime,
    output: options.Format,
) -> ExitCode:
    """Measure on a native machine; print the recall and what was missed.

    Raises:
        UserError: ``build`` has no kernel to boot.
    """
    if build.bzimage is None or not build.kernels:
        raise UserError(
            f"{build.root} has no bzImage and vmlinux to boot",
            hint="name the directory of a finished kernel build with --of",
        )
    kernel = Kernel(build.bzimage, build.kernels[0], build.modules)
    with board() as lines, connect(runtime.value) as engine:
        engine.reap()
        toolbox = Toolbox(
            engine, image.ensure(engine, image.machine(), lines("machine")).tag
        )
        score = measure(
            toolbox,
            kernel,
            Platform.NATIVE,
            load(kernel.vmlinux),
            count,
            seed,
            lines("corpus"),
        )
    if output is options.Format.JSON:
        OUT.out(options.to_json(score), end="")
    else:
        for missed in score.missed:
            OUT.print(f"missed {missed}", markup=False)
        seen = score.executed - len(score.missed)
        OUT.print(
            f"{score.made} wrong entries, {score.executed} executed, {seen} seen: "
            f"{score.recall:.1%}",
            markup=False,
        )
    return ExitCode.CLEAN if score.met else ExitCode.FINDINGS
