"""The text of Debian's kernels of each era, by mitigation: every byte is predicted.

They are booted as the ELF file that their debug package has (PVH), on the CPU models
whose mitigations rewrite the most.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from harness.boot import boot
from harness.boot.gdb import Gdb
from harness.boot.initramfs import Toolbox
from harness.boot.machine import Machine, MachineConfig
from harness.boot.readback.memory import GuestMemory
from harness.boot.readback.taken import Taken, take
from harness.boot.readback.verdict import judge
from harness.corpus import shipped
from harness.elf.feature import image_features
from harness.elf.program import Program
from harness.progress import silent
from harness.variant import Platform

pytestmark = [pytest.mark.boot, pytest.mark.nightly]

_LARGE = MachineConfig(memory_mb=1024, timeout_s=300)
MITIGATIONS = {
    "default": _LARGE,
    "off": replace(_LARGE, append="mitigations=off"),
    "unret": replace(_LARGE, cpu="EPYC"),
    "its": replace(_LARGE, cpu="Cascadelake-Server"),
    "stuff": replace(
        _LARGE, cpu="Skylake-Client", append="spectre_v2=retpoline retbleed=stuff"
    ),
}


@pytest.fixture(scope="module", params=["5.10", "6.1", "6.12", "newest"])
def vmlinux(request: pytest.FixtureRequest, kernel_toolbox: Toolbox) -> Path:
    """Debian's cloud kernel of an era."""
    (kernel,) = [
        one
        for one in shipped.chosen(f"debian-{request.param}-cloud", nightly=False)
        if one.name == f"debian-{request.param}-cloud"
    ]
    return shipped.fetch(kernel_toolbox.engine, kernel, silent).directory / "vmlinux"


@pytest.mark.parametrize("mitigation", MITIGATIONS)
def test_every_byte_is_predicted(
    vmlinux: Path, mitigation: str, kernel_toolbox: Toolbox
) -> None:
    """More than ten million of them; hundreds of thousands are not as linked."""
    seen: list[Taken] = []

    def look(machine: Machine, gdb: Gdb, program: Program) -> None:
        seen.append(take(program, GuestMemory(machine, gdb), init=True))

    kernel = boot.Kernel(vmlinux, vmlinux)
    config = MITIGATIONS[mitigation]
    with boot.session(kernel_toolbox, kernel, Platform.NATIVE, config) as session:
        session.start(look)
    (taken,) = seen
    verdict = judge(taken, image_features(taken.linked), "native")
    assert [finding.message for finding in verdict.findings] == []
    assert verdict.reason == ""
    assert verdict.counts["text_bytes"] > 10_000_000
    assert verdict.counts["text_differing"] > 300_000
