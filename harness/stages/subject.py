"""Subject: a built kernel, and where and how it is booted."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from harness import kernel_build
from harness.boot.boot import Kernel
from harness.boot.initramfs import Toolbox
from harness.boot.machine import MachineConfig
from harness.elf.feature import Features, image_features, parse_cpufeatures
from harness.elf.program import Program
from harness.variant import Platform


class Subject(Struct, frozen=True):
    """What the boot and compare stages work on.

    Attributes:
        name: the variant's, or the directory's.
        toolbox: returns what machines are made with; it may have to wait for the
            machine image, and raises InfraError if that could not be made.
    """

    name: str
    platform: Platform
    kernel: Kernel
    toolbox: Callable[[], Toolbox]
    config: MachineConfig

    def features(self, program: Program) -> Features:
        """Return what the features of ``program``, its kernel, are called."""
        header = kernel_build.find(self.kernel.vmlinux.parent).cpufeatures
        return names_of(header, program)

    @property
    def command(self) -> str:
        """What boots it again."""
        directory = self.kernel.vmlinux.parent
        argv = ["orc-harness", "boot", str(directory), "--platform", self.platform]
        usual = MachineConfig()
        for name in ("qemu", "xen", "xen_args", "cpu", "append"):
            asked = getattr(self.config, name)
            if asked != getattr(usual, name):
                argv += [f"--{name.replace('_', '-')}", asked]
        if self.config.kaslr:
            argv.append("--kaslr")
        if self.config.smp != usual.smp:
            argv += ["--smp", str(self.config.smp)]
        return shlex.join(argv)


def names_of(header: Path | None, program: Program) -> Features:
    """Return the features of ``program`` by its cpufeatures.h, if that is at hand."""
    if header is None:
        return image_features(program)
    return parse_cpufeatures(header.read_text())
