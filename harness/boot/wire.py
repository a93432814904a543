"""Wire: packets to a gdbstub over a Unix socket, and its answers, in order.

Requests that need no thought between them go out in one write, because a round trip
costs more than its work.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.boot.packet import frame, take_packet
from harness.errors import InfraError

BATCH_PACKETS = 32
REPLY_S = 10.0


class LostGuest(InfraError):
    """The other end is gone: QEMU ended, crashed or closed the connection."""


class GdbTimeout(InfraError):
    """The guest or its stub did not answer before the deadline."""


class Wire:
    """A connection that packets go over; whoever speaks the protocol is one.

    Attributes:
        reply_s: how long an answer may take.
        idle: called now and then while one is waited for.
    """

    reply_s = REPLY_S
    IDLE_S = 0.25

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()
        self.idle: Callable[[], None] = _nothing

    def _ask(self, packet: str) -> bytes:
        return self._exchange([packet])[0]

    def _exchange(self, packets: Sequence[str]) -> list[bytes]:
        replies = []
        for start in range(0, len(packets), BATCH_PACKETS):
            batch = packets[start : start + BATCH_PACKETS]
            self._send(batch)
            deadline = time.monotonic() + self.reply_s
            replies += [self._receive(deadline, packet[:40]) for packet in batch]
        return replies

    def _send(self, packets: Sequence[str]) -> None:
        self._sock_send(b"".join(map(frame, packets)))

    def _sock_send(self, data: bytes) -> None:
        try:
            self._sock.settimeout(self.reply_s)
            self._sock.sendall(data)
        except TimeoutError as exc:
            raise GdbTimeout(f"gdbstub took no request for {self.reply_s} s") from exc
        except OSError as exc:
            raise LostGuest(f"gdbstub is gone: {exc}") from exc

    def _receive(self, deadline: float, what: str) -> bytes:
        """Return the body of the next packet."""
        while (packet := take_packet(self._buffer)) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise GdbTimeout(f"gdbstub did not answer in time: {what}")
            try:
                self._sock.settimeout(min(left, self.IDLE_S))
                data = self._sock.recv(65536)
            except TimeoutError:
                self.idle()
                continue
            except OSError as exc:
                raise LostGuest(f"gdbstub is gone: {exc}") from exc
            if not data:
                raise LostGuest(f"gdbstub closed the connection, waiting for {what}")
            self._buffer += data
        return packet


def open_socket(path: Path, deadline: float, timeout_s: float) -> socket.socket:
    """Connect to ``path``, waiting for somebody to listen there.

    Raises:
        GdbTimeout: nobody did until ``deadline``.
    """
    # A socket's path holds 108 bytes; through its directory's descriptor any does.
    while True:
        sock = socket.socket(socket.AF_UNIX)
        try:
            directory = os.open(path.parent, os.O_PATH)
            try:
                sock.connect(f"/proc/self/fd/{directory}/{path.name}")
            finally:
                os.close(directory)
        except OSError as exc:
            sock.close()
            if time.monotonic() > deadline:
                raise GdbTimeout(
                    f"no gdbstub listens at {path} after {timeout_s} s: {exc}"
                ) from exc
            time.sleep(0.02)
        else:
            return sock


def _nothing() -> None:
    pass
