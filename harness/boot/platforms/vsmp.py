"""VSmp: the native machine with vSMP Foundation's PCI device in slot 00:1f.0.

QEMU has no such device; ``vsmp_device.py`` plays it through the gdbstub. Its
registers are two words of memory, which the command line keeps the kernel off.
"""

from __future__ import annotations

from harness.boot.machine import Plan
from harness.boot.outcome import BootResult, Proof, logged
from harness.boot.platforms import native
from harness.boot.platforms.request import Request

REGISTERS = 0xE000000  # physical; below native.MEMORY_MB
REGISTERS_BYTES = 0x10000


def _written(result: BootResult) -> str:
    before = result.facts.get("vsmp.control.reset", "")
    after = result.facts.get("vsmp.control", "")
    if after and after != before:
        return ""
    return f"the kernel never wrote vSMP's control register: {after or 'not read'}"


PROOFS: tuple[Proof, ...] = (
    _written,
    logged(r"vSMP CTL: capabilities:", "vSMP was not detected"),
    logged(r"vSMP CTL: control set to:", "the vSMP handshake did not end"),
)


def plan(request: Request) -> Plan:
    """Return the machine; the caller runs the device model on its gdbstub."""
    return native.plan(request, f"memmap={REGISTERS_BYTES:#x}${REGISTERS:#x}")
