"""The pytest plugin: kernels as fixtures, one item per object and check.

    pytest --artifacts DIR                   a kernel that is built already
    pytest --kernel-tree TREE --kernel-variant xen   build it first (once)

A suite asks for ``kernel_object`` (each file of the build) and ``kernel_check``
(each group of rules) and becomes one item per pair, in a stable order. The build
happens once, before collection, in the process that people started.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import kernel_build
from harness.errors import HarnessError
from harness.progress import silent
from harness.variant import Platform

_ARTIFACTS = pytest.StashKey[tuple["Kernel", ...]]()
NEEDS = (
    "kernel suite: needs --artifacts DIR (a kernel build), or --kernel-tree TREE "
    "[--kernel-variant native|kvm|xen|vsmp] to build one"
)


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel under test: its variant's name, platform and files."""

    name: str
    platform: Platform
    build: kernel_build.KernelBuild


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that say which kernel is tested."""
    group = parser.getgroup("orc-harness", "kernels under test")
    group.addoption(
        "--artifacts",
        action="append",
        default=[],
        metavar="DIR",
        help="a kernel build (repeatable): vmlinux, modules, bzImage",
    )
    group.addoption(
        "--kernel-tree",
        metavar="TREE",
        help="kernel source to build first; 'default' is Debian's linux-source",
    )
    group.addoption(
        "--kernel-variant",
        action="append",
        default=[],
        choices=[platform.value for platform in Platform],
        help="variant to build from --kernel-tree (repeatable; default: all)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Build what is asked for, once: workers get the paths from the controller."""
    worker = getattr(config, "workerinput", None)
    try:
        if worker is not None:
            pairs = worker["orc_harness_artifacts"]
        else:
            pairs = _requested(config)
        config.stash[_ARTIFACTS] = tuple(
            Kernel(name, Platform(platform), kernel_build.find(Path(path)))
            for name, platform, path in pairs
        )
    except HarnessError as exc:
        raise pytest.UsageError(str(exc)) from exc


def _requested(config: pytest.Config) -> list[tuple[str, str, str]]:
    found = [
        (Path(path).absolute().name, Platform.NATIVE.value, str(Path(path).absolute()))
        for path in config.getoption("--artifacts")
    ]
    tree = config.getoption("--kernel-tree")
    if tree is None or config.option.collectonly:
        return found
    from harness import matrix  # what builds is loaded on demand

    names = config.getoption("--kernel-variant") or [p.value for p in Platform]
    source = None if tree == "default" else Path(tree)
    request = matrix.Request(tree=source, platforms=tuple(map(Platform, names)))
    for artifacts in matrix.build_variants(request, lambda name: silent):
        name = artifacts.manifest.variant
        found.append((name, artifacts.manifest.platform, str(artifacts.directory)))
    return found


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: object) -> None:
    """Hand the kernels on to an xdist worker."""
    kernels = node.config.stash[_ARTIFACTS]  # type: ignore[attr-defined]
    node.workerinput["orc_harness_artifacts"] = [  # type: ignore[attr-defined]
        (kernel.name, kernel.platform.value, str(kernel.build.root))
        for kernel in kernels
    ]


def pytest_report_header(config: pytest.Config) -> Sequence[str]:
    """Say which kernels are tested, or what the kernel suite needs."""
    kernels = config.stash.get(_ARTIFACTS, ())
    return [
        f"kernel {kernel.name}: {kernel.build.root} ({len(kernel.build.files)} files)"
        for kernel in kernels
    ] or [NEEDS]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make an item per kernel, object and group of rules."""
    kernels = metafunc.config.stash.get(_ARTIFACTS, ())
    if "kernel_object" in metafunc.fixturenames:
        pairs = [(kernel, path) for kernel in kernels for path in kernel.build.files]
        ids = [f"{kernel.name}-{_name(kernel, path)}" for kernel, path in pairs]
        metafunc.parametrize("kernel_object", pairs, ids=ids)
    elif "kernel" in metafunc.fixturenames:
        metafunc.parametrize("kernel", kernels, ids=[k.name for k in kernels])


def _name(kernel: Kernel, path: Path) -> str:
    root = kernel.build.root
    return str(path.relative_to(root)) if path.is_relative_to(root) else path.name
