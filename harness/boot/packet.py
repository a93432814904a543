"""Packet: what goes over the wire of GDB's remote serial protocol, and comes back.

Pure: requests are built and answers taken apart here; ``gdb.py`` sends them.
"""

from __future__ import annotations

from collections.abc import Iterable

from harness.boot.registers import Registers
from harness.errors import InfraError

CHUNK_BYTES = 1900  # QEMU's packets hold 4096 characters, two to a byte


def frame(body: str) -> bytes:
    """Return ``body`` as a packet on the wire: ``$body#checksum``."""
    data = body.encode("latin-1")
    return b"$%s#%02x" % (data, sum(data) & 0xFF)


def take_packet(buffer: bytearray) -> bytes | None:
    """Remove and return the first whole packet's body; None if there is none yet.

    Raises:
        InfraError: its checksum is wrong.
    """
    start = buffer.find(b"$")
    end = buffer.find(b"#", start + 1)
    if start < 0 or end < 0 or len(buffer) < end + 3:
        return None
    body = bytes(buffer[start + 1 : end])
    checksum = bytes(buffer[end + 1 : end + 3])
    del buffer[: end + 3]
    if checksum != b"%02x" % (sum(body) & 0xFF):
        raise InfraError(
            f"gdbstub sent a packet with checksum {text(checksum)}, expected "
            f"{sum(body) & 0xFF:02x}: {text(body[:40])}"
        )
    return body


def set_registers(registers: Registers | bytes) -> str:
    """Return the packet that sets ``registers``."""
    blob = registers if isinstance(registers, bytes) else registers.pack()
    return f"G{blob.hex()}"


def stopped_thread(reply: bytes) -> str:
    """Return which vCPU a stop reply is about, as it is named; empty if it does not say."""
    for item in reply[3:].decode("latin-1").split(";"):
        name, _, value = item.partition(":")
        if name == "thread":
            return value
    return ""


def reads(address: int, size: int) -> list[str]:
    """Return the packets that read a window of memory."""
    return [
        f"m{address + offset:x},{min(CHUNK_BYTES, size - offset):x}"
        for offset in range(0, size, CHUNK_BYTES)
    ]


def into(registers: Registers, windows: Iterable[tuple[int, bytes]]) -> list[str]:
    """Return the packets that prepare a call: memory, and all but control registers."""
    return [*writes(windows), set_registers(registers.pack_without_control())]


def writes(windows: Iterable[tuple[int, bytes]]) -> list[str]:
    """Return the packets that write ``windows``."""
    return [
        f"M{address + offset:x},{len(part):x}:{part.hex()}"
        for address, data in windows
        for offset in range(0, len(data), CHUNK_BYTES)
        if (part := data[offset : offset + CHUNK_BYTES])
    ]


def is_error(reply: bytes) -> bool:
    """Tell whether a reply says that it cannot be done."""
    return not reply or (len(reply) == 3 and reply[:1] == b"E")


def unhex(reply: bytes) -> bytes:
    """Return the bytes that a reply is of.

    Raises:
        InfraError: it is not of hex digits.
    """
    try:
        return bytes.fromhex(reply.decode("ascii"))
    except ValueError as exc:
        raise InfraError(f"gdbstub sent {text(reply[:40])!r}, expected hex") from exc


def text(reply: bytes) -> str:
    """Return a reply as people read it."""
    return reply.decode("latin-1")
