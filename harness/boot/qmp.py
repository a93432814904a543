"""Qmp: a client of QEMU's control socket, for as little as we need of it.

It starts the machine, injects NMIs, ends it, and above all keeps QEMU's own word
for how the machine ended: the SHUTDOWN event tells whether the guest did it.
Protocol: docs/interop/qmp-spec of QEMU; JSON lines over a Unix socket.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.errors import InfraError

REPLY_S = 20.0
POLL_S = 0.01


class Qmp:
    """A connection to one QEMU; made by :func:`connect`."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = b""
        self._shutdown = ""
        self.version = ""

    def command(self, name: str, **arguments: object) -> object:
        """Run ``name`` and return what it returns.

        Raises:
            InfraError: QEMU refused it, is gone, or did not answer in time.
        """
        request = {"execute": name, "arguments": arguments}
        try:
            self._sock.sendall(json.dumps(request).encode() + b"\n")
        except OSError as exc:
            raise InfraError(f"qemu is gone at qmp {name}: {exc}") from exc
        deadline = time.monotonic() + REPLY_S
        while (message := self._next(deadline)) is not None:
            if "return" in message:
                return message["return"]
            if isinstance(error := message.get("error"), dict):
                raise InfraError(f"qmp {name} failed: {error.get('desc')}")
        raise InfraError(f"qemu gave no answer to qmp {name} within {REPLY_S:g} s")

    def cont(self) -> None:
        """Let the machine run."""
        self.command("cont")

    def inject_nmi(self) -> None:
        """Raise an NMI on the default vCPU."""
        self.command("inject-nmi")

    def poke(self) -> None:
        """Raise a keyboard interrupt that means nothing."""
        self.command("send-key", keys=[{"type": "qcode", "data": "shift"}])

    def shutdown_reason(self) -> str:
        """Return QEMU's reason for a SHUTDOWN that it has told, or an empty string.

        ``guest-shutdown`` and ``guest-reset`` are the guest's own doing; the other
        reasons of QEMU's ShutdownCause are not.
        """
        with contextlib.suppress(InfraError):
            while self._next(time.monotonic()) is not None:
                pass
        return self._shutdown

    def quit(self) -> None:
        """End QEMU; harmless if it has ended."""
        with contextlib.suppress(InfraError):
            self.command("quit")

    def greet(self, deadline: float) -> None:
        """Take QEMU's greeting and leave negotiation mode."""
        greeting = self._next(deadline)
        if greeting is None or not isinstance(hello := greeting.get("QMP"), dict):
            raise InfraError("qemu's control socket does not greet")
        number = hello["version"]["qemu"]
        self.version = "{major}.{minor}.{micro}".format(**number)
        self.command("qmp_capabilities")

    def _next(self, deadline: float) -> dict[str, object] | None:
        """Return the next message, noting events on the way; None at the deadline."""
        while True:
            line, newline, rest = self._buffer.partition(b"\n")
            if newline:
                self._buffer = rest
                message = json.loads(line)
                assert isinstance(message, dict)
                self._note(message)
                return message
            if not self._receive(deadline):
                return None

    def _receive(self, deadline: float) -> bool:
        self._sock.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            data = self._sock.recv(65536)
        except TimeoutError:
            return False
        except OSError as exc:
            raise InfraError(f"qemu's control socket failed: {exc}") from exc
        if not data:
            raise InfraError("qemu closed its control socket")
        self._buffer += data
        return True

    def _note(self, message: dict[str, object]) -> None:
        if message.get("event") == "SHUTDOWN":
            data = message.get("data")
            if isinstance(data, dict):
                self._shutdown = str(data.get("reason", "unknown"))


@contextlib.contextmanager
def connect(
    path: Path,
    timeout_s: float = REPLY_S,
    alive: Callable[[], bool] = lambda: True,
) -> Iterator[Qmp]:
    """Yield a client of the QEMU at ``path``, waiting for it to listen.

    Raises:
        InfraError: nobody listens or greets within ``timeout_s``, or QEMU is not
            ``alive`` any more.
    """
    deadline = time.monotonic() + timeout_s
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as sock:
        while True:
            try:
                sock.connect(str(path))
                break
            except (FileNotFoundError, ConnectionRefusedError) as exc:
                if not alive():
                    raise InfraError("it ended at once") from exc
                if time.monotonic() > deadline:
                    raise InfraError(
                        f"no qemu listens at {path} after {timeout_s:g} s"
                    ) from exc
                time.sleep(POLL_S)
            except OSError as exc:
                raise InfraError(f"cannot connect to {path}: {exc}") from exc
        qmp = Qmp(sock)
        qmp.greet(deadline)
        yield qmp
