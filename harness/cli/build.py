"""``orc-harness build``: kernels into the store."""

from __future__ import annotations

from harness import allowance, matrix
from harness.build.tree import PACKAGE
from harness.cli import options
from harness.cli.console import ERR, OUT, board


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
    output: options.FormatOption = options.Format.TEXT,
) -> None:
    """Build kernels in containers; print where each one's artifacts are.

    What was built before is found, not built.
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
    )
    with board() as lines:
        built, note = matrix.build_variants(request, lines)
    if note:
        ERR.print(f"note: {note}", markup=False)
    if output is options.Format.JSON:
        OUT.out(options.to_json(built), end="")
        return
    for artifacts in built:
        manifest = artifacts.manifest
        OUT.print(
            f"{manifest.variant}: Linux {manifest.kernel_release}, "
            f"{manifest.compiled} objects compiled in {manifest.seconds:.0f} s, "
            f"{len(manifest.modules)} modules\n  {artifacts.directory}",
            markup=False,
        )
