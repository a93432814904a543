"""``orc-harness run``: the main job, on every platform."""

from __future__ import annotations

import typer

from harness import allowance, matrix
from harness.build.tree import PACKAGE
from harness.cli import options, saved
from harness.cli.console import board
from harness.cli.outcome import conclude
from harness.report import folder


def command(
    tree: options.TreeOption = None,
    package: options.PackageOption = PACKAGE,
    variant: options.VariantOption = None,
    profile: options.ProfileOption = options.Profile.SMALL,
    fragment: options.FragmentOption = None,
    config: options.ConfigOption = None,
    toolchain: options.ToolchainOption = "bookworm",
    runtime: options.RuntimeOption = options.Runtime.AUTO,
    jobs: options.JobsOption = None,
    rebuild_images: options.RebuildImagesOption = False,
    qemu: options.QemuOption = None,
    xen: options.XenOption = None,
    cpu: options.CpuOption = None,
    append: options.AppendOption = "",
    xen_args: options.XenArgsOption = "",
    kaslr: options.KaslrOption = False,
    smp: options.SmpOption = 1,
    timeout: options.TimeoutOption = None,
    seed: options.SeedOption = 0,
    report: options.ReportOption = options.REPORT,
    store: options.StoreOption = None,
    baseline: options.BaselineOption = None,
    output: options.FormatOption = options.Format.TEXT,
) -> None:
    """Build, validate, boot and compare kernels; print one table; write report/.

    The whole matrix is four variants of one tree. A second run builds nothing.
    """
    request = matrix.Request(
        tree=tree,
        package=package,
        profile=profile.value,
        platforms=options.platforms(variant, config),
        fragments=tuple(fragment or ()),
        configs=options.configs(config),
        toolchain=toolchain,
        runtime=runtime.value,
        jobs=jobs or allowance.jobs(),
        rebuild_images=rebuild_images,
        machine=options.machine_config(
            qemu, xen, cpu, append, xen_args, kaslr, smp, timeout
        ),
        seed=seed,
    )
    folder.prepare(report)
    saved.check(store)
    base = saved.Base(baseline, store)
    with board() as lines:
        result = matrix.run_matrix(request, lines)
    judged = conclude(result, output, base=base, store=store, report=report)
    raise typer.Exit(judged.exit_code)
