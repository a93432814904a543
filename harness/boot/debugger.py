"""Debugger: a connection to the stub that sees a machine's kernel, wherever that is."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from harness.boot.gdb import Gdb
from harness.boot.machine import POLL_S, Machine
from harness.boot.outcome import tail
from harness.boot.spin import HANDSHAKE_S, SpinGdb
from harness.errors import InfraError


@contextlib.contextmanager
def debugger(machine: Machine) -> Iterator[Gdb]:
    """Yield a client of the stub of the kernel under test, which is stopped.

    A nested guest's host is served meanwhile, whenever we wait.

    Raises:
        InfraError: the host of a nested guest did not come up.
        GdbTimeout, LostGuest: the stub does not answer, or is gone.
    """
    if not machine.plan.spins:
        with Gdb.connect(machine.gdb_socket) as gdb:
            yield gdb
        return
    if machine.plan.outer_nonce:
        _wait_for_host(machine)

    def idle() -> None:
        machine.serve(machine.evidence())

    with SpinGdb.connect(machine.gdb_socket, HANDSHAKE_S, idle) as spin:
        yield spin


def _wait_for_host(machine: Machine) -> None:
    while "running" not in (seen := machine.outer_evidence()).marks:
        if not machine.alive() or not machine.remaining_s:
            console = machine.read("outer-console").decode(errors="replace")
            raise InfraError(
                "the host of the nested guest did not come up\n"
                + "\n".join(tail(console))
            )
        time.sleep(POLL_S)
    if (lack := seen.lacks.get("stub")) is not None:
        raise InfraError(
            f"the host of the nested guest cannot pass on its gdbstub, without {lack}",
            hint="its kernel needs virtio_console and virtio_pci, built in",
        )
