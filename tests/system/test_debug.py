"""``boot --debug``: a real machine stands at a finding until somebody has looked."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.boot.gdb import Gdb
from harness.elf.load import load
from harness.elf.orc import ENTRY_SIZE
from harness.pytest_plugin import Kernel
from harness.variant import Platform

pytestmark = pytest.mark.boot


def other_vmlinux(kernel: Kernel, directory: Path) -> Path:
    """Copy a build; its vmlinux has one entry that the kernel which boots has not."""
    build = kernel.build
    assert build.bzimage is not None
    shutil.copy(build.bzimage, directory)
    vmlinux = directory / "vmlinux"
    data = bytearray(build.kernels[0].read_bytes())
    section = load(build.kernels[0]).section(".orc_unwind")
    assert section is not None
    at = data.find(section.data.tobytes())
    assert at > 0
    data[at + 100 * ENTRY_SIZE] ^= 8
    vmlinux.write_bytes(data)
    return vmlinux


def test_a_machine_stands_at_the_finding(kernel: Kernel, tmp_path: Path) -> None:
    """The command that is printed names a stub that answers, as often as it is asked."""
    if kernel.platform is not Platform.NATIVE:
        pytest.skip("SKIP: once is enough")
    vmlinux = other_vmlinux(kernel, tmp_path)
    command = [sys.executable, "-m", "harness", "boot", str(tmp_path), "--debug"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        assert running.stderr is not None
        try:
            lines = iter(running.stderr.readline, "")
            attach = next(line for line in lines if "attach: " in line)
            assert str(vmlinux) in attach
            socket = Path(attach.split("target remote ")[1].rstrip("'\n"))
            seen = set()
            for _ in range(2):
                with Gdb.connect(socket, timeout_s=30) as gdb:
                    seen.add(gdb.registers().rip)
        finally:
            running.stdin.close()
        printed = running.stdout.read()
        assert running.wait(60) == 1
    assert len(seen) == 1  # nothing ran meanwhile
    assert "runtime/table-differs" in printed
