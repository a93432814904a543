"""Spin: breakpoints and calls where a stub's own breakpoints and steps are of no use.

In a KVM guest that is nested under TCG the gdbstub's software breakpoints become the
guest's own ``int3``, its hardware breakpoints never hit and a step runs away. So the
place itself is made a ``jmp .`` : whoever comes there stays there, in the very state
that a breakpoint would show. The guest is broken into again and again to see whether a
vCPU stands there yet. There may be several vCPUs; during a call all but one are held.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterable

import numpy as np

from harness.boot.gdb import Gdb, Stop, UnmappedMemory
from harness.boot.packet import frame, unhex
from harness.boot.registers import Registers
from harness.boot.wire import REPLY_S, GdbTimeout
from harness.errors import InfraError
from harness.text.decode import decode_all

SPIN = b"\xeb\xfe"  # jmp .
NAP_S, LONGEST_NAP_S, LONGEST_CALL_NAP_S = 0.001, 0.1, 0.02
HANDSHAKE_S = 60.0  # its QEMU may only be starting
_INSN_BYTES = 15
_BREAK_IN, _TRAP = 2, 5


class SpinGdb(Gdb):
    """A connection to a gdbstub, with breakpoints of our own; made by ``connect``.

    A breakpoint takes an instruction of two bytes or more, in text that is mapped and
    that the kernel patches no more.
    """

    steps = False
    writes_text = True
    breakpoint_bytes = len(SPIN)
    poll_s = 0.2  # to break in takes its host a while, too
    reply_s = 60.0  # its host may have to be woken, more than once

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._before: dict[int, bytes] = {}
        self._stopped: tuple[Registers, ...] = ()
        self._call_s = NAP_S

    # vCPUs

    def vcpus(self) -> tuple[Registers, ...]:
        """Return the registers of every vCPU, as they were at the last stop."""
        if not self._stopped:
            self._look()
        return self._stopped

    # breakpoints

    def insert_breakpoint(self, address: int) -> None:
        """Keep whoever comes to ``address`` there.

        Raises:
            InfraError: the instruction there is too short.
        """
        self.insert_breakpoints([address])
        if address not in self._breakpoints:
            raise InfraError(
                f"no breakpoint at {address:#x}: the instruction there has one byte, "
                f"and a jump takes {len(SPIN)}"
            )

    def insert_breakpoints(self, addresses: Iterable[int]) -> None:
        """Insert those that are not there yet, but none at an instruction of one byte."""
        new = sorted(set(addresses) - self._breakpoints)
        found = self._text([(address, _INSN_BYTES) for address in new])
        for address, code in zip(new, found, strict=True):
            if first_size(code) >= self.breakpoint_bytes:
                self._before[address] = code[: len(SPIN)]
        inserted = [address for address in new if address in self._before]
        self.write_many((address, SPIN) for address in inserted)
        self._breakpoints.update(inserted)

    def remove_breakpoints(self, addresses: Iterable[int]) -> None:
        """Put back what was there; what is ours no more (the guest's) stays."""
        old = sorted(set(addresses) & self._breakpoints)
        found = self._text([(address, len(SPIN)) for address in old])
        self.write_many(
            (address, self._before[address])
            for address, code in zip(old, found, strict=True)
            if code == SPIN
        )
        self._breakpoints.difference_update(old)
        for address in old:
            del self._before[address]

    def _text(self, windows: list[tuple[int, int]]) -> list[bytes]:
        """Read ``windows`` through a vCPU whose page tables have them, and select it.

        A user's may have none of the kernel: if all have such, they run on a little.

        Raises:
            UnmappedMemory: none came to have them.
        """
        deadline = time.monotonic() + self.reply_s
        while True:
            for number in dict.fromkeys((self._selected, *range(len(self.vcpus())))):
                self.select(number)
                with contextlib.suppress(UnmappedMemory):
                    return self.read_many(windows)
            if time.monotonic() > deadline:
                raise UnmappedMemory(f"no vCPU has {windows[0][0]:#x} mapped")
            self.cont()
            self._nap(NAP_S)
            self._look(break_in=True)

    # running

    def cont(self) -> None:
        """Let all vCPUs run; follow with :meth:`wait`."""
        self._stopped = ()
        super().cont()

    def step(self, timeout_s: float = REPLY_S) -> Stop:
        """Refuse: a step is of no use here."""
        raise InfraError("this guest cannot be stepped")

    def step_registers(self, registers: Registers | None = None) -> Registers:
        """Refuse, too."""
        raise InfraError("this guest cannot be stepped")

    def wait(self, timeout_s: float) -> Stop:
        """Wait until a vCPU stands at a breakpoint, and select it.

        Raises:
            GdbTimeout: none does after ``timeout_s``; the guest runs on.
            LostGuest: it ended.
        """
        if (stop := self._watch(timeout_s, "c")).trapped:
            return stop
        self.cont()
        raise GdbTimeout(f"no vCPU came to a breakpoint in {timeout_s:g} s")

    def run_for(self, seconds: float) -> Stop:
        """Let the guest run until a vCPU stands at a breakpoint, or for ``seconds``."""
        self.cont()
        return self._watch(seconds, "c")

    def _called(self, timeout_s: float) -> Stop:
        before = self._stopped
        stop = self._watch(timeout_s, self._alone("c"), self._call_s)
        self._stopped = before  # what is called is a secret
        return stop

    def _follow(self, thread: str) -> None:
        """Stay: whom a break-in is told of is no matter."""

    def _alone(self, how: str) -> str:
        # also where there is one: it is told from what lets all run
        return f"vCont;{how}:{self._thread}"

    def _watch(self, seconds: float, how: str, first_s: float = NAP_S) -> Stop:
        """Break into what has been resumed until a vCPU stands at a breakpoint.

        ``how`` resumes it; ``first_s`` is when we look first. It is left stopped.
        """
        deadline = time.monotonic() + seconds
        nap_s = first_s if self._breakpoints else seconds
        while True:
            self._nap(min(nap_s, max(deadline - time.monotonic(), 0.0)))
            if self._look(alone=how != "c", break_in=True):
                if how != "c":  # to break in too early costs more than to wait
                    at_once = nap_s == first_s
                    grown = first_s * (0.95 if at_once else 1.5)
                    self._call_s = min(max(grown, NAP_S), LONGEST_CALL_NAP_S)
                return Stop(_TRAP)
            if time.monotonic() >= deadline:
                return Stop(_BREAK_IN)
            nap_s = min(2 * nap_s, LONGEST_NAP_S)
            self._send([how])

    def _nap(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, self.IDLE_S))
            if left > self.IDLE_S:
                self.idle()

    def _look(self, *, alone: bool = False, break_in: bool = False) -> bool:
        """Read the registers; select a vCPU at a breakpoint, and tell whether one is.

        With ``alone`` only the selected one is looked at. Where the guest runs, to
        ``break_in`` and to read is one round trip.
        """
        if not self._threads:
            if break_in:
                self.interrupt()
                super().wait(self.reply_s)
                break_in = False
            self._threads = self._ask_threads()
        numbers = (self._selected,) if alone else tuple(range(len(self._threads)))
        asked = [
            packet
            for number in numbers
            for packet in (f"Hg{self._threads[number]}", "g")
        ]
        self._sock_send((b"\x03" if break_in else b"") + b"".join(map(frame, asked)))
        if break_in:
            super().wait(self.reply_s)
        deadline = time.monotonic() + self.reply_s
        replies = [self._receive(deadline, packet) for packet in asked]
        found = tuple(Registers.parse(unhex(reply)) for reply in replies[1::2])
        there = [
            number
            for number, registers in zip(numbers, found, strict=True)
            if registers.rip in self._breakpoints
        ]
        if not alone:
            self._stopped, self._selected = found, numbers[-1]
            if there and there[0] != self._selected:
                self.select(there[0])
        return bool(there)

    def _handshake(self, deadline: float) -> None:
        # The stub may have an earlier client's words yet, and not tell that it stops.
        self.interrupt()
        self._send(["qAttached"])
        reply = self._receive(deadline, "qAttached")
        while reply[:1] in (b"S", b"T"):
            reply = self._receive(deadline, "qAttached")
        if reply not in (b"0", b"1"):
            raise InfraError(f"gdbstub sent {reply!r} for qAttached, expected 0 or 1")


def first_size(code: bytes) -> int:
    """Return the size of the instruction that ``code`` begins with."""
    return int(decode_all(np.frombuffer(code, np.uint8), 0).size[0])
