"""KvmProbe: finds out whether this host's KVM really runs a guest.

A device node that opens proves nothing: on some hosts a guest never makes progress.
So a guest of a few instructions runs, and has to say its two words in time.
"""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

from harness.boot.initramfs import Toolbox
from harness.container.job import Limits, Mount
from harness.errors import InfraError

DEVICE = "/dev/kvm"
DEADLINE_S = 10.0
ROM_BYTES = 64 << 10
LOOPS = 1_000_000
_EXIT_PORT = 0xF4
_START = 0xE000


def rom() -> bytes:
    """Return a firmware image for -bios: 16-bit code entered at f000:fff0.

    It writes ``o`` to port 0xe9, loops, writes ``k``, and ends QEMU through
    isa-debug-exit; then it halts.
    """
    code = b"".join(
        (
            b"\xb0o\xe6\xe9",  # mov $'o',%al; out %al,$0xe9
            b"\x66\xb9" + struct.pack("<I", LOOPS),  # mov $LOOPS,%ecx
            b"\x67\xe2\xfd",  # 1: addr32 loop 1b
            b"\xb0k\xe6\xe9",  # mov $'k',%al; out %al,$0xe9
            b"\xb0\x00\xe6" + bytes([_EXIT_PORT]),  # mov $0,%al; out
            b"\xf4\xeb\xfd",  # 2: hlt; jmp 2b
        )
    )
    image = bytearray(ROM_BYTES)
    image[_START : _START + len(code)] = code
    after_jump = 0xFFF0 + 3
    image[0xFFF0:0xFFF3] = b"\xe9" + struct.pack("<H", (_START - after_jump) & 0xFFFF)
    return bytes(image)


def argv(qemu: str, directory: str, accel: str = "kvm") -> tuple[str, ...]:
    """Return the command line of the tiny guest."""
    return (
        *(qemu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-accel", accel, "-m", "16", "-bios", f"{directory}/rom"),
        *("-chardev", f"file,id=said,path={directory}/said"),
        *("-device", "isa-debugcon,iobase=0xe9,chardev=said"),
        *("-device", f"isa-debug-exit,iobase={_EXIT_PORT:#x},iosize=1"),
    )


def reason_against(
    toolbox: Toolbox, qemu: str, *, device: str = DEVICE, accel: str = "kvm"
) -> str:
    """Return why this host's KVM cannot be used, or an empty string if it can."""
    if accel == "kvm" and not Path(device).exists():
        return f"no {device}"
    with tempfile.TemporaryDirectory(prefix="orc-kvm-") as scratch:
        (Path(scratch) / "rom").write_bytes(rom())
        mount = Mount(Path(scratch), "/machine", writable=True)
        text: list[str] = []
        try:
            done = toolbox.engine.run(
                toolbox.image,
                argv(qemu, toolbox.engine.path(mount), accel),
                mounts=(mount,),
                limits=Limits(memory_mb=512, timeout_s=DEADLINE_S),
                devices=(device,) if accel == "kvm" else (),
                on_text=text.append,
            )
        except InfraError as exc:
            return f"{device}: {exc.message}"
        said = Path(scratch, "said")
        words = said.read_bytes() if said.exists() else b""
    if words == b"ok":
        return ""
    if done.timed_out:
        return f"{device} opens, but a guest makes no progress in {DEADLINE_S:g} s"
    words_of_qemu = "; ".join("".join(text).strip().splitlines())
    return f"{device}: {words_of_qemu or f'qemu ended with {done.returncode}'}"
