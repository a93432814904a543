"""KvmProbe: finds out whether this host's KVM really runs a guest.

A device node that opens proves nothing: on some hosts (PVM) a guest's kernel is
emulated so slowly that it never boots. So a tiny guest (``guest/probe.S``) goes to
long mode, loops and takes an exception, and has to say its two words in time.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from harness.boot.initramfs import Toolbox, program
from harness.container.job import Engine, Limits, Mount
from harness.errors import InfraError

DEVICE = "/dev/kvm"
DEADLINE_S = 4.0  # working KVMs take well under one
_EXIT_PORT = 0xF4


def argv(qemu: str, directory: str, accel: str = "kvm") -> tuple[str, ...]:
    """Return the command line of the tiny guest."""
    return (
        *(qemu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-accel", accel, "-m", "16", "-bios", f"{directory}/rom"),
        *("-chardev", f"file,id=said,path={directory}/said"),
        *("-device", "isa-debugcon,iobase=0xe9,chardev=said"),
        *("-device", f"isa-debug-exit,iobase={_EXIT_PORT:#x},iosize=1"),
    )


def is_offered(runtime: str, device: Path = Path(DEVICE)) -> bool:
    """Tell whether QEMU is given ``device``: in a container it is, whoever we are."""
    ours = runtime != "host" or os.access(device, os.R_OK | os.W_OK)
    return device.exists() and ours


def device_user(engine: Engine, device: str = DEVICE) -> str | None:
    """Return the user that QEMU must be to open ``device``; None is the usual one.

    A container's user is in the node's group. Where the group may not open the
    node and we are root, only its owner can; QEMU has no capability even then.
    """
    node = Path(device).stat()
    by_group = stat.S_IRGRP | stat.S_IWGRP
    if os.geteuid() or node.st_mode & by_group == by_group:
        return None
    return None if engine.runtime == "host" else f"{node.st_uid}:{node.st_gid}"


def reason_against(
    toolbox: Toolbox, qemu: str, *, device: str = DEVICE, accel: str = "kvm"
) -> str:
    """Return why this host's KVM cannot be used, or an empty string if it can."""
    if accel == "kvm" and not Path(device).exists():
        return f"no {device}"
    with tempfile.TemporaryDirectory(prefix="orc-kvm-") as scratch:
        Path(scratch, "rom").write_bytes(program(toolbox, "probe"))
        mount = Mount(Path(scratch), "/machine", writable=True)
        text: list[str] = []
        try:
            done = toolbox.engine.run(
                toolbox.image,
                argv(qemu, toolbox.engine.path(mount), accel),
                mounts=(mount,),
                limits=Limits(memory_mb=512, timeout_s=DEADLINE_S),
                devices=(device,) if accel == "kvm" else (),
                user=device_user(toolbox.engine, device) if accel == "kvm" else None,
                on_text=text.append,
            )
        except InfraError as exc:
            return f"{device}: {exc.message}"
        said = Path(scratch, "said")
        words = said.read_bytes() if said.exists() else b""
    if words == b"ok":
        return ""
    if done.timed_out:
        return (
            f"{device} opens, but a guest that should take well under a second is "
            f"not through after {DEADLINE_S:g} s"
        )
    words_of_qemu = "; ".join("".join(text).strip().splitlines())
    return f"{device}: {words_of_qemu or f'qemu ended with {done.returncode}'}"
