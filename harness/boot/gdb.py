"""Gdb: a client of the gdbstub that QEMU serves, over a Unix socket.

Speaks the part of GDB's remote serial protocol that QEMU's stub needs: registers,
memory, breakpoints, step, continue, break-in and HMP commands. Requests that need no
thought between them go out in one write and are answered in order, because a round
trip costs more than its work. One rule of QEMU's stub shapes it: any byte that arrives
while the guest runs stops the guest. So a request that resumes is always the last of
its batch, and answers are never acknowledged (the next request does that).
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from harness.boot.packet import (
    into,
    is_error,
    reads,
    set_registers,
    stopped_thread,
    text,
    unhex,
    writes,
)
from harness.boot.registers import Registers
from harness.boot.wire import REPLY_S, GdbTimeout, LostGuest, Wire, open_socket
from harness.errors import InfraError


class UnmappedMemory(InfraError):
    """The guest has nothing mapped there now."""


class Stop(Struct, frozen=True):
    """Why the guest stopped: GDB's signal number (2 break-in, 5 trap)."""

    signal: int

    @property
    def trapped(self) -> bool:
        """A breakpoint was hit or a step ended (not a break-in)."""
        return self.signal == 5


class Gdb(Wire):
    """A connection to QEMU's gdbstub; made by :meth:`connect`.

    The guest is stopped while connected, until :meth:`cont`. The vCPU that a stop is
    about is selected; a step and a call run it alone, all others are held.

    Attributes:
        steps: it can be stepped.
        writes_text: breakpoints are bytes of its text, which must be there before.
        breakpoint_bytes: how long an instruction has to be for one.
        poll_s: how long a guest may run before we look how far it is.
    """

    steps = True
    writes_text = False
    breakpoint_bytes = 1
    poll_s = 0.02

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._breakpoints: set[int] = set()
        self._threads: tuple[str, ...] = ()
        self._selected = 0

    @classmethod
    @contextlib.contextmanager
    def connect(
        cls,
        path: Path,
        timeout_s: float = REPLY_S,
        idle: Callable[[], None] | None = None,
    ) -> Iterator[Gdb]:
        """Connect to the stub at ``path``, waiting for it to listen.

        ``idle`` is called now and then while it, or the guest, is waited for.

        Raises:
            GdbTimeout: nobody listens or answers within ``timeout_s``.
            LostGuest: the stub hung up on us.
        """
        deadline = time.monotonic() + timeout_s
        with contextlib.closing(open_socket(path, deadline, timeout_s)) as sock:
            gdb = cls(sock)
            gdb.idle = idle or gdb.idle
            gdb._handshake(deadline)
            yield gdb

    @property
    def breakpoints(self) -> frozenset[int]:
        """Where our breakpoints are now."""
        return frozenset(self._breakpoints)

    # registers

    def registers(self) -> Registers:
        """Return the registers of the stopped vCPU."""
        return Registers.parse(unhex(self._ask("g")))

    def vcpus(self) -> tuple[Registers, ...]:
        """Return the registers of every vCPU of the stopped guest."""
        if not self._threads:
            self._threads = self._ask_threads()
        if len(self._threads) == 1:
            return (self.registers(),)
        asked = [packet for name in self._threads for packet in (f"Hg{name}", "g")]
        *replies, selected = self._exchange([*asked, f"Hg{self._thread}"])
        if selected != b"OK":
            raise InfraError(f"gdbstub refused vCPU {self._thread}: {text(selected)!r}")
        return tuple(Registers.parse(unhex(reply)) for reply in replies[1::2])

    def select(self, number: int) -> None:
        """Make all else be about vCPU ``number`` of :meth:`vcpus`."""
        if number == self._selected:
            return
        self._selected = number
        self._expect_ok(f"Hg{self._thread}")

    @property
    def _thread(self) -> str:
        if not self._threads:
            self._threads = self._ask_threads()
        return self._threads[self._selected]

    def _alone(self, how: str) -> str:
        """Return the packet that resumes the selected vCPU, and no other."""
        thread = self._thread
        return how if len(self._threads) == 1 else f"vCont;{how}:{thread}"

    def write_registers(self, registers: Registers | bytes) -> None:
        """Set all registers."""
        self._expect_ok(set_registers(registers))

    # memory

    def read(self, address: int, size: int) -> bytes:
        """Return ``size`` bytes of guest memory at ``address``.

        Raises:
            UnmappedMemory: it is not mapped there.
        """
        return self.read_many([(address, size)])[0]

    def read_or_none(self, address: int, size: int) -> bytes | None:
        """Return guest memory, or None where it is not mapped."""
        replies = self._exchange(reads(address, size))
        if any(is_error(reply) for reply in replies):
            return None
        return b"".join(map(unhex, replies))

    def read_many(self, wanted: Sequence[tuple[int, int]]) -> list[bytes]:
        """Read several (address, size) windows in as few round trips as can be.

        Raises:
            UnmappedMemory: one of them is not mapped.
        """
        packets: list[str] = []
        counts: list[int] = []
        for address, size in wanted:
            chunks = reads(address, size)
            packets += chunks
            counts.append(len(chunks))
        replies = iter(self._exchange(packets))
        result = []
        for (address, size), count in zip(wanted, counts, strict=True):
            parts = [next(replies) for _ in range(count)]
            if any(is_error(part) for part in parts):
                raise UnmappedMemory(
                    f"guest memory {address:#x}+{size:#x} is not mapped"
                )
            result.append(b"".join(map(unhex, parts)))
        return result

    def registers_and_memory(
        self, address: int, size: int, then: Registers | None = None
    ) -> tuple[Registers, bytes]:
        """Return registers and a window of memory, and set ``then``: one round trip.

        Of ``then`` the control registers stay as they are.
        """
        packets = ["g", *reads(address, size)]
        restore = [] if then is None else [set_registers(then.pack_without_control())]
        registers, *replies = self._exchange(packets + restore)
        if restore and replies.pop() != b"OK":
            raise InfraError("gdbstub refused registers")
        return Registers.parse(unhex(registers)), b"".join(map(unhex, replies))

    def write(self, address: int, data: bytes) -> None:
        """Write guest memory, whatever its page protection.

        Raises:
            InfraError: it is not mapped there.
        """
        self.write_many([(address, data)])

    def write_many(self, windows: Iterable[tuple[int, bytes]]) -> None:
        """Write several windows in as few round trips as can be.

        Raises:
            InfraError: one of them is not mapped.
        """
        packets = writes(windows)
        for packet, reply in zip(packets, self._exchange(packets), strict=True):
            if reply != b"OK":
                raise InfraError(
                    f"gdbstub refused to write {packet[1:].partition(':')[0]}: "
                    f"{text(reply)}"
                )

    def physical(self, on: bool) -> None:
        """Make memory addresses physical ones (QEMU's own extension), or not."""
        self._expect_ok(f"Qqemu.PhyMemMode:{int(on)}")

    # breakpoints

    def insert_breakpoint(self, address: int) -> None:
        """Stop the guest before it executes the instruction at ``address``."""
        self.insert_breakpoints([address])

    def remove_breakpoint(self, address: int) -> None:
        """Take back :meth:`insert_breakpoint`."""
        self.remove_breakpoints([address])

    def insert_breakpoints(self, addresses: Iterable[int]) -> None:
        """Insert those that are not there yet."""
        new = sorted(set(addresses) - self._breakpoints)
        self._expect_ok(*(f"Z0,{address:x},1" for address in new))
        self._breakpoints.update(new)

    def remove_breakpoints(self, addresses: Iterable[int]) -> None:
        """Remove those that are there."""
        old = sorted(set(addresses) & self._breakpoints)
        self._expect_ok(*(f"z0,{address:x},1" for address in old))
        self._breakpoints.difference_update(old)

    # running

    def cont(self) -> None:
        """Let the guest run; follow with :meth:`wait`."""
        self._send(["c"])

    def step(self, timeout_s: float = REPLY_S) -> Stop:
        """Execute one instruction (QEMU holds interrupts and timers back)."""
        self._send([self._alone("s")])
        return self.wait(timeout_s)

    def step_registers(self, registers: Registers | None = None) -> Registers:
        """Set ``registers`` if given, execute one instruction, return the new ones."""
        how = self._alone("s")
        self._resume([] if registers is None else [set_registers(registers)], how)
        self.wait(self.reply_s)
        return self.registers()

    def interrupt(self) -> None:
        """Break in; follow with :meth:`wait`. Harmless if the guest just stopped."""
        self._sock_send(b"\x03")

    def wait(self, timeout_s: float) -> Stop:
        """Wait until the guest stops.

        Raises:
            GdbTimeout: it still runs after ``timeout_s``.
            LostGuest: it ended.
        """
        reply = self._receive(time.monotonic() + timeout_s, f"a stop in {timeout_s} s")
        while reply[:1] == b"O":  # console output of the stub: none of ours
            reply = self._receive(time.monotonic() + timeout_s, "a stop")
        if reply[:1] in (b"W", b"X"):
            raise LostGuest(f"the machine ended while we waited: {text(reply)}")
        if reply[:1] not in (b"S", b"T"):
            raise InfraError(f"gdbstub sent {text(reply)!r} for a stop reason")
        self._follow(stopped_thread(reply))
        return Stop(int(reply[1:3], 16))

    def _follow(self, thread: str) -> None:
        """Note that the stub has selected the vCPU that a stop is about."""
        if len(self._threads) > 1 and thread in self._threads:
            self._selected = self._threads.index(thread)

    def run_for(self, seconds: float) -> Stop:
        """Let the guest run for at most ``seconds``, then break in."""
        self.cont()
        try:
            return self.wait(seconds)
        except GdbTimeout:
            self.interrupt()
            return self.wait(self.reply_s)

    def call(
        self,
        registers: Registers,
        windows: Iterable[tuple[int, bytes]],
        timeout_s: float,
    ) -> Stop:
        """Write memory, set registers (no control register), run until it stops."""
        self._resume(into(registers, windows), self._alone("c"))
        return self._called(timeout_s)

    def go_on(self, timeout_s: float) -> Stop:
        """Run on in what :meth:`call` called, until it stops again."""
        self._send([self._alone("c")])
        return self._called(timeout_s)

    def _called(self, timeout_s: float) -> Stop:
        return self.wait(timeout_s)

    def monitor(self, command: str) -> str:
        """Run one HMP command (``nmi``) and return what it printed."""
        self._send([f"qRcmd,{command.encode().hex()}"])
        printed = b""
        while True:
            reply = self._receive(
                time.monotonic() + self.reply_s, f"{command} in {self.reply_s} s"
            )
            if reply == b"OK" or not reply or is_error(reply):
                return printed.decode(errors="replace")
            printed += unhex(reply[reply[:1] == b"O" :])

    # the protocol

    def _handshake(self, deadline: float) -> None:
        # A guest that an earlier client let run is stopped by our coming, and its
        # stub may tell that client's stop reason first: go on to the second answer.
        self._send(["?", "qAttached"])
        reply = self._receive(deadline, "?")
        if reply[:1] not in (b"S", b"T"):
            raise InfraError(f"gdbstub sent {text(reply)!r} for a stop reason")
        while reply[:1] in (b"S", b"T"):
            reply = self._receive(deadline, "qAttached")

    def _ask_threads(self) -> tuple[str, ...]:
        names: list[str] = []
        reply = self._ask("qfThreadInfo").decode("latin-1")
        while reply.startswith("m"):
            names += reply[1:].split(",")
            reply = self._ask("qsThreadInfo").decode("latin-1")
        if not names:
            raise InfraError(f"gdbstub named no vCPU, but said {reply!r}")
        return tuple(sorted(names, key=lambda name: int(name, 16)))

    def _resume(self, first: Sequence[str], how: str) -> None:
        # All in one write: nothing may arrive once the guest runs.
        self._send([*first, how])
        deadline = time.monotonic() + self.reply_s
        for packet in first:
            if (reply := self._receive(deadline, packet[:40])) != b"OK":
                raise InfraError(f"gdbstub refused {packet[:40]}: {text(reply)!r}")

    def _expect_ok(self, *packets: str) -> None:
        for packet, reply in zip(packets, self._exchange(packets), strict=True):
            if reply != b"OK":
                raise InfraError(f"gdbstub refused {packet[:40]}: {text(reply)!r}")
