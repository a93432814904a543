"""Xen: the kernel as PV dom0 of the real hypervisor, under QEMU's TCG."""

from __future__ import annotations

from pathlib import Path

from harness.boot.fetch import NotInImage, fetch
from harness.boot.machine import Boards, MissingMachine, Plan, qemu_argv
from harness.boot.outcome import Proof, logged
from harness.boot.platforms.request import Request
from harness.elf.file import read_file

MEMORY_MB = 768
DOM0_MB = 400
TIMEOUT_S = 120.0
PROOFS: tuple[Proof, ...] = (
    logged(r"Hypervisor detected: Xen PV", "this is not a Xen PV guest"),
)


def plan(request: Request) -> Plan:
    """Return the machine.

    ``-cpu max`` has features that crash a PV dom0, so the usual CPU is qemu64.

    Raises:
        MissingMachine: there is no hypervisor.
    """
    config, where = request.config, request.directory
    usual = f"dom0_mem={DOM0_MB}M console=com1 com1=115200,8n1 loglvl=all"
    if config.smp > 1:  # so that one of the machine's CPUs is always the same of dom0's
        usual += " dom0_vcpus_pin"
    # A comma separates the modules of a multiboot kernel; doubled, it is one.
    dom0 = request.append("hvc0", "earlyprintk=xen").replace(",", ",,")
    board = Boards(
        kernel=f"{where}/xen",
        initrd=f"{where}/bzImage {dom0},{where}/initrd",
        append=f"{usual} {config.xen_args}".strip(),
        cpu=config.cpu or "qemu64",
        memory_mb=config.memory_mb or MEMORY_MB,
        smp=config.smp,
    )
    return Plan(
        argv=qemu_argv(config.qemu, board, where),
        files={**request.files, "xen": hypervisor(request)},
        nonce=request.nonce,
        memory_mb=board.memory_mb,
        timeout_s=request.timeout_s(TIMEOUT_S),
        facts={"accel": "tcg", "cpu": board.cpu},
    )


def hypervisor(request: Request) -> bytes:
    """Return the hypervisor, unpacked: QEMU's multiboot loader takes no other."""
    name = request.config.xen
    local = Path(name)
    if not local.is_file():
        try:
            script = 'cp -L "$2" "$1/xen" && chmod 644 "$1/xen"'
            local = fetch(request.toolbox, script, name) / "xen"
        except NotInImage as exc:
            raise MissingMachine(
                f"no Xen hypervisor at {name}: {exc.message}",
                hint="--xen FILE names one; the machine image brings Debian's",
            ) from exc
    return read_file(local).tobytes()
