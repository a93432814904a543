"""Options: those that several commands share, spelt once."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec.structs import replace

from harness.character import spelt
from harness.errors import UserError
from harness.result import SCHEMA, legible, plain
from harness.variant import Platform

if TYPE_CHECKING:
    from harness.boot.machine import MachineConfig


REPORT = Path("report")


class Format(enum.StrEnum):
    """What results are written as on stdout."""

    TEXT = "text"
    JSON = "json"


class Profile(enum.StrEnum):
    """How much of a kernel is built."""

    SMALL = "small"
    FULL = "full"


class Runtime(enum.StrEnum):
    """Where builds and machines run."""

    AUTO = "auto"
    DOCKER = "docker"
    PODMAN = "podman"
    HOST = "host"


FormatOption = Annotated[
    Format, typer.Option("--format", help="Results as text, or JSON for machines.")
]
TreeOption = Annotated[
    Path | None,
    typer.Option(
        "--tree",
        help="Kernel source: git (dirty too) or a directory. Default: Debian's.",
        show_default=False,
    ),
]
PackageOption = Annotated[
    str,
    typer.Option(
        "--package", help="Debian's source package, where there is no --tree."
    ),
]
FragmentOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--fragment",
        exists=True,
        dir_okay=False,
        readable=True,
        metavar="FILE",
        help="Kconfig lines to merge into every variant (repeatable).",
        show_default=False,
    ),
]
ProfileOption = Annotated[
    Profile, typer.Option("--profile", help="How much of a kernel to build.")
]
VariantOption = Annotated[
    list[Platform] | None,
    typer.Option(
        "--variant", help="Only this variant (repeatable). Default: all four."
    ),
]
ConfigOption = Annotated[
    list[str] | None,
    typer.Option(
        "--config",
        metavar="FILE[:PLATFORM]",
        help="A whole .config that takes part like a variant (repeatable); "
        "booted on native unless said otherwise.",
    ),
]


def toolchains(incomplete: str) -> list[str]:
    """Return the toolchains whose name begins so, for completion."""
    from harness.container.image import recipes

    names = (name.removeprefix("toolchain-") for name in recipes() if name != "machine")
    return [name for name in names if name.startswith(incomplete)]


ToolchainOption = Annotated[
    str,
    typer.Option(
        "--toolchain",
        help="Toolchain image: bullseye, bookworm, trixie, sid or clang.",
        autocompletion=toolchains,
    ),
]
RuntimeOption = Annotated[
    Runtime, typer.Option("--runtime", help="Where builds and machines run.")
]
JobsOption = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        "-j",
        min=1,
        help="Parallel jobs. Default: what cores and memory allow.",
    ),
]
QemuOption = Annotated[
    str | None,
    typer.Option(
        "--qemu", help="QEMU: a name or path in the machine image.", show_default=False
    ),
]
XenOption = Annotated[
    str | None,
    typer.Option(
        "--xen",
        help="Xen: a path on this host or in the machine image.",
        show_default=False,
    ),
]
XenArgsOption = Annotated[
    str, typer.Option("--xen-args", help="Added to the hypervisor's command line.")
]
KaslrOption = Annotated[
    bool, typer.Option("--kaslr", help="Let the kernel move itself (no nokaslr).")
]
SmpOption = Annotated[
    int,
    typer.Option(
        "--smp", min=1, max=64, help="CPUs of the machine; a nested guest has two."
    ),
]
CpuOption = Annotated[
    str | None,
    typer.Option(
        "--cpu",
        help="QEMU's -cpu. Default: what suits the platform.",
        show_default=False,
    ),
]
AppendOption = Annotated[
    str, typer.Option("--append", help="Added to the kernel command line.")
]
TimeoutOption = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        help="Deadline of one boot, in seconds. Default: what suits the platform.",
        show_default=False,
    ),
]
SeedOption = Annotated[
    int, typer.Option("--seed", help="Where the sampling of the comparison starts.")
]
KnownOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--known",
        metavar="DIR",
        help="Baseline entries of your own, too (repeatable).",
        show_default=False,
    ),
]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="FILE|URL",
        envvar="ORC_HARNESS_STORE",
        help="Save the run there: a file, postgresql://user@host/database, or "
        "`default`, which is in the cache directory.",
        show_default=False,
    ),
]
HistoryOption = Annotated[
    str,
    typer.Option(
        "--store",
        metavar="FILE|URL",
        envvar="ORC_HARNESS_STORE",
        help="Where runs are kept: a file, postgresql://user@host/database, or "
        "`default`, which is in the cache directory.",
    ),
]
BaselineOption = Annotated[
    str | None,
    typer.Option(
        "--baseline",
        metavar="RUN",
        help="What this run had is known: a saved result, a run in the store, or "
        "`last-good` there.",
        show_default=False,
    ),
]
ReportOption = Annotated[
    Path,
    typer.Option("--report", help="Where result.json, junit.xml and report.html go."),
]
RebuildImagesOption = Annotated[
    bool, typer.Option("--rebuild-images", help="Make the images anew.")
]


def platforms(
    variant: list[Platform] | None, config: list[str] | None
) -> tuple[Platform, ...]:
    """Return the platforms to build for: those named, else all unless --config."""
    if variant:
        return tuple(variant)
    return () if config else tuple(Platform)


def machine_config(
    qemu: str | None,
    xen: str | None,
    cpu: str | None,
    append: str,
    xen_args: str,
    kaslr: bool,
    smp: int,
    timeout_s: float | None,
) -> MachineConfig:
    """Return the machine that the options ask for; the rest are its defaults."""
    from harness.boot.machine import MachineConfig  # boot is slow to import

    usual = MachineConfig(
        append=append,
        xen_args=xen_args,
        kaslr=kaslr,
        smp=smp,
        cpu=cpu,
        timeout_s=timeout_s,
    )
    return replace(usual, qemu=qemu or usual.qemu, xen=xen or usual.xen)


def configs(config: list[str] | None) -> tuple[tuple[Path, Platform], ...]:
    """Split each ``FILE[:PLATFORM]`` of --config.

    Raises:
        UserError: the file does not exist.
    """
    return tuple(_config(text) for text in config or ())


def _config(text: str) -> tuple[Path, Platform]:
    name, colon, platform = text.rpartition(":")
    if not (colon and platform in list(Platform)):
        name, platform = text, Platform.NATIVE.value
    path = Path(name)
    if not path.is_file():
        raise UserError(
            f"--config {path} does not exist",
            hint="FILE or FILE:PLATFORM, such as /boot/config-6.12:xen",
        )
    return path, Platform(platform)


def to_json(value: object) -> str:
    """Return structs (or lists of them) as an indented JSON document."""
    document = {"schema": SCHEMA, "data": plain(legible(value))}
    return json.dumps(document, indent=2, ensure_ascii=False, default=_word) + "\n"


def _word(value: object) -> str:
    return spelt(str(value))  # what is left are paths and days
