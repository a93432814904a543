"""Kvm: the kernel as a KVM guest, on this host's KVM or on one nested under TCG.

The host's KVM is taken only when a tiny guest makes progress on it. Else a kernel
with kvm-amd runs under TCG, with QEMU in its initramfs, and our kernel is its guest.
Either way there are two CPUs: with one, the kernel would not patch in PVUNLOCK.
"""

from __future__ import annotations

import secrets

from harness.boot import kvm_probe, nested
from harness.boot.machine import Boards, Plan, qemu_argv
from harness.boot.outcome import Proof, logged
from harness.boot.platforms.request import Request

MEMORY_MB = 256
HOST_TIMEOUT_S = 60.0
NESTED_TIMEOUT_S = 240.0
PROOFS: tuple[Proof, ...] = (
    logged(r"Hypervisor detected: KVM", "this is not a KVM guest"),
    logged(r"PV spinlocks enabled", "PVUNLOCK was not selected"),
)


def plan(request: Request) -> Plan:
    """Return the machine: the host's KVM where it works, else a nested one.

    Raises:
        MissingMachine: neither can be had.
    """
    if not request.config.host_kvm:
        return _nested(request, "host KVM not wanted")
    if reason := kvm_probe.reason_against(request.toolbox, request.config.qemu):
        return _nested(request, reason)
    return _host(request)


def _host(request: Request) -> Plan:
    config = request.config
    board = Boards(
        kernel=f"{request.directory}/bzImage",
        initrd=f"{request.directory}/initrd",
        append=request.append("ttyS0", "orc.nmi=1"),
        cpu=config.cpu or "host",
        memory_mb=config.memory_mb or MEMORY_MB,
        accel="kvm",
        smp=2,
    )
    return Plan(
        argv=qemu_argv(config.qemu, board, request.directory),
        files=request.files,
        nonce=request.nonce,
        memory_mb=board.memory_mb,
        timeout_s=request.timeout_s(HOST_TIMEOUT_S),
        devices=(kvm_probe.DEVICE,),
        user=kvm_probe.device_user(request.toolbox.engine),
        nmi=True,
        spins=True,
        facts={"kvm": "host", "accel": "kvm", "cpu": board.cpu},
    )


def _nested(request: Request, reason: str) -> Plan:
    config, where = request.config, request.directory
    outer = nested.host(request.toolbox, config.nested)
    outer_nonce = secrets.token_hex(8)
    inner = request.append("ttyS0", *nested.INNER_APPEND)
    debugged = "orc.debugged=1" if config.debugged else ""
    board = Boards(
        kernel=f"{where}/outer-kernel",
        initrd=f"{where}/outer-initrd",
        append=f"{nested.APPEND} orc.nonce={outer_nonce} {debugged}".rstrip(),
        # -la57: kvm-amd under TCG fails with five-level paging.
        cpu=config.cpu or "max,+svm,-la57",
        memory_mb=nested.MEMORY_MB,
        console="outer-console",
        ports=nested.PORTS,
    )
    archive = nested.archive(
        outer, request.bzimage, request.initrd, inner, debugged=config.debugged
    )
    stub = nested.stub_argv(where) if config.debugged else ()
    return Plan(
        argv=(*qemu_argv(config.qemu, board, where), *stub),
        files={"outer-kernel": outer.kernel, "outer-initrd": archive},
        nonce=request.nonce,
        memory_mb=board.memory_mb,
        timeout_s=request.timeout_s(NESTED_TIMEOUT_S),
        outer_nonce=outer_nonce,
        stub=nested.STUB,
        spins=True,
        facts={"kvm": f"nested under TCG ({reason})", "accel": "tcg", "cpu": board.cpu},
    )
