"""VsmpDevice: vSMP Foundation's control device, played through QEMU's gdbstub.

The kernel finds it in slot 00:1f.0 with read_pci_config() and its two siblings
(Linux kernel arch/x86/pci/early.c). The model stops the guest at their first
instruction: for its own slot it returns the device's word as if the function had
run, for all others it lets it run. BAR 0 points to memory that holds the registers
``capabilities`` and ``control`` (arch/x86/kernel/vsmp_64.c: set_vsmp_ctl()), so
that what the kernel wrote there can be read back.
"""

from __future__ import annotations

import struct
import time

from msgspec import Struct
from msgspec.structs import replace

from harness.boot import init_end
from harness.boot.gdb import Gdb
from harness.boot.registers import Registers
from harness.elf.program import Program
from harness.errors import UserError

SLOT = (0, 0x1F, 0)
VENDOR_DEVICE = 0x10108686
CLASS_REVISION = 0x08800000
CAPABILITIES = 0x105
CONTROL = 0x103  # bit 8: the kernel may hand interrupt routing to vSMP
CONTROL_OFFSET = 4

_ACCESSORS = {
    "read_pci_config": 4,
    "read_pci_config_16": 2,
    "read_pci_config_byte": 1,
}


class Served(Struct, frozen=True):
    """What the kernel did with the device.

    Attributes:
        reads: PCI configuration reads seen, of all slots.
        emulated: those of the device.
        control: the control register as the kernel left it.
    """

    reads: int
    emulated: int
    control: int

    @property
    def facts(self) -> dict[str, str]:
        """The same, as a boot's facts."""
        return {
            "vsmp.reads": str(self.reads),
            "vsmp.emulated": str(self.emulated),
            "vsmp.control.reset": f"{CONTROL:#010x}",
            "vsmp.control": f"{self.control:#010x}",
        }


def config_word(offset: int, size: int, registers_at: int) -> int:
    """Return ``size`` bytes of the device's configuration space at ``offset``."""
    space = bytearray(256)
    struct.pack_into("<I", space, 0x00, VENDOR_DEVICE)
    struct.pack_into("<I", space, 0x08, CLASS_REVISION)
    struct.pack_into("<I", space, 0x10, registers_at)
    return int.from_bytes(space[offset : offset + size], "little")


def accessors(program: Program) -> dict[int, int]:
    """Return address -> bytes read, of the kernel's configuration accessors.

    Raises:
        UserError: the kernel has none, so that it cannot find the device.
    """
    found = {
        address: size
        for name, size in _ACCESSORS.items()
        if (address := program.symbols.find(name)) is not None
    }
    if not found:
        raise UserError(
            f"{program.name} has no read_pci_config: it cannot detect vSMP",
            hint="CONFIG_X86_VSMP needs CONFIG_PCI; vmlinux must keep its symbols",
        )
    return found


def serve(gdb: Gdb, program: Program, registers_at: int, timeout_s: float) -> Served:
    """Play the device from reset until the kernel has freed its init code.

    The guest is left stopped, without breakpoints.

    Raises:
        InfraError: the guest did not get there within ``timeout_s``.
    """
    sizes = accessors(program)
    end = init_end.address(program)  # all that looks for the device has run by then
    deadline = time.monotonic() + timeout_s
    reads = emulated = 0
    gdb.insert_breakpoints((*sizes, end))
    while True:
        gdb.cont()
        gdb.wait(deadline - time.monotonic())
        registers = gdb.registers()
        if registers.rip == end:
            break
        if not reads:
            _reset(gdb, registers_at)
        reads += 1
        size = sizes.get(registers.rip, 0)
        if size and _slot(registers) == SLOT:
            emulated += 1
            offset = registers.rcx & 0xFF
            _return(gdb, registers, config_word(offset, size, registers_at))
        else:
            _step_over(gdb, registers.rip)
    gdb.remove_breakpoints((*sizes, end))
    return Served(reads, emulated, _control(gdb, registers_at))


def _slot(registers: Registers) -> tuple[int, int, int]:
    return (registers.rdi & 0xFF, registers.rsi & 0xFF, registers.rdx & 0xFF)


def _return(gdb: Gdb, registers: Registers, value: int) -> None:
    (rip,) = struct.unpack("<Q", gdb.read(registers.rsp, 8))
    gdb.write_registers(replace(registers, rax=value, rip=rip, rsp=registers.rsp + 8))


def _step_over(gdb: Gdb, address: int) -> None:
    gdb.remove_breakpoint(address)
    gdb.step()
    gdb.insert_breakpoint(address)


def _reset(gdb: Gdb, registers_at: int) -> None:
    gdb.physical(True)
    gdb.write(registers_at, struct.pack("<II", CAPABILITIES, CONTROL))
    gdb.physical(False)


def _control(gdb: Gdb, registers_at: int) -> int:
    gdb.physical(True)
    data = gdb.read(registers_at + CONTROL_OFFSET, 4)
    gdb.physical(False)
    return int.from_bytes(data, "little")
