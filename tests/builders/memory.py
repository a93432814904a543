"""Memory: a running kernel's memory, made of a program's sections."""

from __future__ import annotations

from harness.elf.program import Program
from harness.errors import InfraError


class FakeMemory:
    """What a machine has in memory: the sections of ``image``.

    ``deaf`` keeps nothing that is written to it; ``spoilt`` keeps the first only.
    """

    def __init__(
        self, image: Program, *, deaf: bool = False, spoilt: bool = False
    ) -> None:
        self.bytes = {s.address: bytearray(s.data.tobytes()) for s in image.sections}
        self.deaf = deaf
        self.spoilt = spoilt
        self.writes = 0

    def read(self, address: int, size: int) -> bytes:
        data, at = self._place(address)
        return bytes(data[at : at + size])

    def write(self, address: int, data: bytes) -> None:
        self.writes += 1
        if self.deaf or (self.spoilt and self.writes > 1):
            return
        place, at = self._place(address)
        place[at : at + len(data)] = data

    def _place(self, address: int) -> tuple[bytearray, int]:
        for start, data in self.bytes.items():
            if start <= address < start + len(data):
                return data, address - start
        raise InfraError(f"nothing is mapped at {address:#x}")
