"""The vSMP device model, played to a scripted gdbstub."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from msgspec.structs import replace

from harness.boot import vsmp_device
from harness.boot.gdb import Gdb
from harness.boot.registers import Registers
from harness.elf.program import Program
from harness.errors import UserError
from tests.builders.elfwriter import ALLOC, ET_EXEC, EXEC, ElfWriter
from tests.builders.rspserver import FakeStub, serving

TEXT = 0xFFFFFFFF81000000

STACK = 0xFFFFC90000000000
RETURN = 0xFFFFFFFF81000500
REGISTERS_AT = 0x1000
ZERO = Registers.parse(bytes(236))


@pytest.mark.parametrize(
    ("offset", "size", "word"),
    [
        (0, 4, 0x10108686),
        (0, 2, 0x8686),
        (2, 2, 0x1010),
        (0x0A, 2, 0x0880),
        (0x0E, 1, 0),
        (0x10, 4, REGISTERS_AT),
        (0x14, 4, 0),
    ],
)
def test_configuration_space(offset: int, size: int, word: int) -> None:
    """The words that the kernel and its quirks look at."""
    assert vsmp_device.config_word(offset, size, REGISTERS_AT) == word


def kernel_with(*names: str) -> Program:
    """Return a kernel that has the functions ``names``."""
    writer = ElfWriter(ET_EXEC)
    code = bytes(0x1000)
    text = writer.section(".text", code, flags=ALLOC | EXEC, address=TEXT)
    for index, name in enumerate(names):
        writer.symbol(name, text, TEXT + 0x100 * index, 0x100)
    return writer.program("vmlinux")


@dataclass
class Kernel(FakeStub):
    """Walks through ``calls`` of the accessors, then frees its init code.

    On the read of BAR 0 it does the handshake as set_vsmp_ctl() does.
    """

    calls: list[Registers] = field(default_factory=list)
    results: list[int] = field(default_factory=list)
    stepped: int = 0

    def _answer(self, packet: str) -> str:
        if packet == "c":
            self._run()
            return "T05thread:01;"
        if packet == "s":
            self.stepped += 1
        return super()._answer(packet)

    def _run(self) -> None:
        left = Registers.parse(self.registers)
        if left.rip == RETURN:
            assert left.rsp == STACK + 8
            self.results.append(left.rax)
            if left.rax == REGISTERS_AT:
                self.handshake()
        self.registers = self.calls.pop(0).pack()

    def handshake(self) -> None:
        """Clear bit 8 of control, as the kernel does."""
        raw = bytes(self.memory[REGISTERS_AT + 4 + i] for i in range(4))
        (control,) = struct.unpack("<I", raw)
        self.load(REGISTERS_AT + 4, struct.pack("<I", control & ~0x100))


def read(program: Program, name: str, slot: tuple[int, int, int], at: int) -> Registers:
    """Return the vCPU at the first instruction of accessor ``name``."""
    address = program.symbols.find(name)
    assert address is not None
    bus, device, function = slot
    return replace(
        ZERO,
        rip=address,
        rsp=STACK,
        rdi=bus | 0xABC00,  # only the low byte of an u8 argument counts
        rsi=device,
        rdx=function,
        rcx=at,
    )


@pytest.fixture
def program() -> Program:
    """Return a kernel with the accessors and the end of boot."""
    names = ["read_pci_config", "read_pci_config_16", "read_pci_config_byte"]
    return kernel_with(*names, "free_initmem")


def test_handshake(program: Program, tmp_path: Path) -> None:
    """The device's reads are answered, others run; the control register tells."""
    ours, other = (0, 0x1F, 0), (0, 2, 0)
    end = replace(ZERO, rip=program.symbols.find("free_initmem"))
    stub = Kernel(
        registers=ZERO.pack(),
        calls=[
            read(program, "read_pci_config_16", other, 0x0A),
            read(program, "read_pci_config", ours, 0x00),
            read(program, "read_pci_config", ours, 0x10),
            read(program, "read_pci_config_byte", ours, 0x0E),
            end,
        ],
    )
    stub.load(STACK, struct.pack("<Q", RETURN))
    stub.load(REGISTERS_AT, bytes(8))
    with serving(stub, tmp_path / "s"), Gdb.connect(tmp_path / "s") as gdb:
        served = vsmp_device.serve(gdb, program, REGISTERS_AT, 5.0)
    assert (served.reads, served.emulated, served.control) == (4, 3, 0x003)
    assert stub.results == [0x10108686, REGISTERS_AT, 0]
    assert stub.stepped == 1
    assert not stub.breakpoints
    assert served.facts["vsmp.control.reset"] == "0x00000103"
    assert served.facts["vsmp.control"] == "0x00000003"


def test_kernel_that_never_looks(program: Program, tmp_path: Path) -> None:
    """Without a read there is no handshake, and the facts show it."""
    end = replace(ZERO, rip=program.symbols.find("free_initmem"))
    stub = Kernel(registers=ZERO.pack(), calls=[end])
    stub.load(REGISTERS_AT, bytes(8))
    with serving(stub, tmp_path / "s"), Gdb.connect(tmp_path / "s") as gdb:
        served = vsmp_device.serve(gdb, program, REGISTERS_AT, 5.0)
    assert (served.reads, served.emulated, served.control) == (0, 0, 0)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("free_initmem",), "no read_pci_config"),
        (("read_pci_config",), "no symbol free_initmem"),
    ],
)
def test_kernel_without_the_symbols(
    names: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    """A kernel that cannot find the device, or has no symbols, is an error."""
    stub = Kernel(registers=ZERO.pack())
    with (
        serving(stub, tmp_path / "s"),
        Gdb.connect(tmp_path / "s") as gdb,
        pytest.raises(UserError, match=message),
    ):
        vsmp_device.serve(gdb, kernel_with(*names), REGISTERS_AT, 5.0)
