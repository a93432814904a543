"""Is the text that each platform runs right, taken as one program?"""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from harness.elf.feature import image_features, parse_cpufeatures
from harness.elf.load import load
from harness.pytest_plugin import FailOnNew, Kernel
from harness.text.patch.choice import Machine
from harness.variant import Platform
from harness.verify.columns import Columns, read_columns
from harness.verify.texts.view import verify_view


@functools.lru_cache(maxsize=1)
def read(path: Path, cpufeatures: Path | None) -> Columns | None:
    """Read the linked kernel ``path`` once for all its views."""
    program = load(path)
    features = image_features(program)
    if cpufeatures is not None:
        features = parse_cpufeatures(cpufeatures.read_text())
    return read_columns(program, features)


@pytest.fixture
def vmlinux(kernel: Kernel) -> Columns:
    """The linked kernel of the build."""
    if not kernel.build.kernels:
        pytest.skip(f"SKIP: {kernel.build.root} has no linked kernel")
    columns = read(kernel.build.kernels[0], kernel.build.cpufeatures)
    if columns is None:
        pytest.skip(f"SKIP: {kernel.build.kernels[0]} carries no ORC")
    return columns


@pytest.mark.static
@pytest.mark.parametrize("cpu", ["none", "all"])
@pytest.mark.parametrize("platform", Platform)
def test_view(
    vmlinux: Columns, platform: Platform, cpu: str, fail_on_new: FailOnNew
) -> None:
    """Patched for a platform, the text has no finding that the linked one has not."""
    part = verify_view(vmlinux, Machine(platform, others=cpu == "all"))
    again = (
        f"orc-harness patch {vmlinux.program.path} --platform {platform} --cpu {cpu} "
        "--check"
    )

    fail_on_new(part.findings, again)
