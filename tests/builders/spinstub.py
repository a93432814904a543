"""A gdbstub of a guest with several vCPUs, for breakpoints that are jumps in its text.

Each vCPU goes along a list of places, one further whenever it is resumed, and stays
where a jump to itself is.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from msgspec.structs import replace

from harness.boot.packet import frame
from harness.boot.registers import Registers
from harness.boot.spin import SPIN
from tests.builders.rspserver import FakeStub

ZERO = Registers.parse(bytes(236))


@dataclass
class SpinStub(FakeStub):
    """Serve it with :func:`tests.builders.rspserver.serving`."""

    registers: bytes = ZERO.pack()
    roads: list[list[int]] = field(default_factory=list)
    vcpus: list[bytes] = field(default_factory=list)
    selected: int = 0
    resumed: list[str] = field(default_factory=list)
    blind: set[int] = field(default_factory=set)  # whose page tables have nothing

    def __post_init__(self) -> None:
        self.vcpus = [replace(ZERO, rip=road.pop(0)).pack() for road in self.roads]

    def reply(self, packet: str) -> bytes | None:
        """Let a guest that is resumed go on until it is broken into."""
        if packet == "c" or packet.startswith("vCont;c:"):
            self.resumed.append(packet)
            if len(self.resumed) == 3:
                self.blind.clear()
            alone = packet.partition(":")[2]
            for number in range(len(self.vcpus)):
                if not alone or number == int(alone, 16) - 1:
                    self._go(number)
            return b""
        if packet == "qAttached" and packet not in self.script:
            return frame("1")
        if packet == "qfThreadInfo":
            names = [f"{number + 1:02x}" for number in range(len(self.vcpus))]
            return frame("m" + ",".join(names))
        if packet == "qsThreadInfo":
            return frame("l")
        if packet.startswith("Hg"):
            self.selected = int(packet[2:], 16) - 1
            return frame("OK")
        self.registers = self.vcpus[self.selected]
        if packet.startswith("m") and self.selected in self.blind:
            return frame("E14")
        answer: bytes | None = super().reply(packet)
        self.vcpus[self.selected] = self.registers
        return answer

    def _go(self, number: int) -> None:
        now = Registers.parse(self.vcpus[number])
        if self.at(now.rip) != SPIN and self.roads[number]:
            after = replace(now, rip=self.roads[number].pop(0))
            self.vcpus[number] = after.pack()

    def at(self, address: int) -> bytes:
        """Return the two bytes at ``address``."""
        return struct.pack("2B", *(self.memory.get(address + i, 0) for i in range(2)))
