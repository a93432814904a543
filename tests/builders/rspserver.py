"""A gdbstub of our own: serves registers and memory to one client from a thread.

``script`` replaces answers: a packet's first characters -> raw bytes to send (with
framing, so that it can be broken), or None to hang up.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.boot.packet import frame


@dataclass
class FakeStub:
    """What the served guest is; tests read back what the client did to it."""

    registers: bytes
    memory: dict[int, int] = field(default_factory=dict)
    script: Mapping[str, bytes | None] = field(default_factory=dict)
    breakpoints: set[int] = field(default_factory=set)
    seen: list[str] = field(default_factory=list)

    def load(self, address: int, data: bytes) -> None:
        """Map ``data`` at ``address``."""
        self.memory.update(enumerate(data, address))

    def reply(self, packet: str) -> bytes | None:
        """Answer one packet; None hangs up."""
        self.seen.append(packet)
        for prefix, answer in self.script.items():
            if packet.startswith(prefix):
                return answer
        return frame(self._answer(packet))

    def _answer(self, packet: str) -> str:
        kind, body = packet[:1], packet[1:]
        if kind == "?":
            return "T05thread:01;"
        if kind == "g":
            return self.registers.hex()
        if kind == "G":
            data = bytes.fromhex(body)  # QEMU leaves what is not sent
            self.registers = data + self.registers[len(data) :]
            return "OK"
        if kind == "m":
            address, size = (int(part, 16) for part in body.split(","))
            wanted = range(address, address + size)
            if any(place not in self.memory for place in wanted):
                return "E14"
            return bytes(self.memory[place] for place in wanted).hex()
        if kind == "M":
            where, _, data = body.partition(":")
            self.load(int(where.split(",")[0], 16), bytes.fromhex(data))
            return "OK"
        if kind in "zZ":
            address = int(body.split(",")[1], 16)
            (self.breakpoints.add if kind == "Z" else self.breakpoints.discard)(address)
            return "OK"
        if kind in "sc":
            return "T05thread:01;"
        threads = {"qfThreadInfo": "m01", "qsThreadInfo": "l"}
        return "OK" if kind == "Q" else threads.get(packet, "")


@contextlib.contextmanager
def serving(stub: FakeStub, path: Path) -> Iterator[None]:
    """Serve ``stub`` at the Unix socket ``path`` until the block ends."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        listener.settimeout(10)
        thread = threading.Thread(target=_serve, args=(listener, stub), daemon=True)
        thread.start()
        yield
        thread.join(10)


def _serve(listener: socket.socket, stub: FakeStub) -> None:
    connection, _ = listener.accept()
    buffer = b""
    with connection, contextlib.suppress(OSError):
        while data := connection.recv(65536):
            buffer += data
            while (end := buffer.find(b"#")) >= 0 and len(buffer) >= end + 3:
                start = buffer.find(b"$")
                if b"\x03" in buffer[: max(start, 0)]:
                    connection.sendall(frame("T02thread:01;"))
                packet = buffer[start + 1 : end].decode()
                buffer = buffer[end + 3 :]
                if (answer := stub.reply(packet)) is None:
                    return
                connection.sendall(b"+" + answer)
            if buffer == b"\x03":
                buffer = b""
                connection.sendall(frame("T02thread:01;"))
