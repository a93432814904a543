"""Native: the kernel on a plain PC that QEMU's TCG emulates."""

from __future__ import annotations

from harness.boot.machine import Boards, Plan, qemu_argv
from harness.boot.outcome import Proof
from harness.boot.platforms.request import Request

MEMORY_MB = 256
TIMEOUT_S = 90.0
PROOFS: tuple[Proof, ...] = ()


def plan(request: Request, *append: str) -> Plan:
    """Return the machine; ``append`` is added to the kernel command line."""
    config = request.config
    board = Boards(
        kernel=f"{request.directory}/bzImage",
        initrd=f"{request.directory}/initrd",
        append=request.append("ttyS0", "orc.nmi=1", *append),
        cpu=config.cpu or "max",
        memory_mb=config.memory_mb or MEMORY_MB,
        smp=config.smp,
    )
    return Plan(
        argv=qemu_argv(config.qemu, board, request.directory),
        files=request.files,
        nonce=request.nonce,
        memory_mb=board.memory_mb,
        timeout_s=request.timeout_s(TIMEOUT_S),
        nmi=True,
        facts={"accel": "tcg", "cpu": board.cpu},
    )
