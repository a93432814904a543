"""Nested: the host of a nested KVM guest, itself a guest under TCG.

Debian's kernel with kvm-amd boots an initramfs that holds QEMU with its libraries
and ``guest/host.c`` as init; that runs the kernel under test and passes its console
and evidence on, through ports that need no driver. What does not change from boot
to boot is one archive, cached; the kernel under test is a second one behind it.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import numpy as np
from msgspec import Struct

from harness import cache
from harness.boot.fetch import NotInImage, fetch
from harness.boot.initramfs import Toolbox, cpio, program
from harness.boot.machine import EVIDENCE_PORT, MissingMachine
from harness.elf import bzimage
from harness.elf.file import read_file

MEMORY_MB = 768
INNER_MEMORY_MB = 192
INNER_PORT = 0x2F8  # the second UART's data register
INNER_MEMORY = 0xB000000  # physical; where init puts its evidence if it can
INNER_APPEND = (
    f"orc.port={INNER_PORT:#x}",
    f"orc.memory={INNER_MEMORY:#x}",
    f"memmap=1M${INNER_MEMORY:#x}",
)
APPEND = f"console=ttyS0 quiet nokaslr panic=-1 orc.guest={INNER_MEMORY:#x}"
STUB = "inner-gdb"  # the inner gdbstub's socket
PORTS = {"outer-evidence": EVIDENCE_PORT, "evidence": 0xEA, "console": 0xEB}

# XEN_ELFNOTE_PHYS32_ENTRY (include/xen/interface/elfnote.h), of 4 or 8 bytes.
_PVH_NOTES = tuple(struct.pack("<III4s", 4, n, 18, b"Xen") for n in (4, 8))
_MICROVM = "rtc=on,auto-kernel-cmdline=off,isa-serial=off"
_SHARED = "mem-path=/guest/memory,share=on"
# The modules of kvm-amd, with what they may need; a kernel that has one built in
# has no file for it.
_MODULES = ("irqbypass", "rng-core", "ccp", "kvm", "kvm-amd")
# $1 output, $2 directory with vmlinuz and modules, the rest names of modules.
# Debian's QEMU for microvm alone is a third of the size, and has fewer libraries.
_COLLECT = r"""
out=$1; from=$2; shift 2
qemu=$(command -v qemu-system-x86_64-microvm || command -v qemu-system-x86_64)
mkdir -p "$out/root/usr/bin" "$out/root/firmware" "$out/modules"
cp -L "$qemu" "$out/root/usr/bin/qemu"
ldd "$qemu" | grep -o '/[^ ]*' | while read -r lib; do
    mkdir -p "$out/root$(dirname "$lib")"
    cp -L "$lib" "$out/root$lib"
done
for name in bios-microvm.bin linuxboot_dma.bin pvh.bin kvmvapic.bin; do
    for place in /usr/share/qemu /usr/share/seabios; do
        if test -e "$place/$name"; then cp -L "$place/$name" "$out/root/firmware"; fi
    done
done
cp -L "$from/vmlinuz" "$out/vmlinuz"
for name; do
    find -L "$from/modules" -name "$name.ko*" -exec cp -L {} "$out/modules" \;
done
test -n "$(find "$out/modules" -name 'kvm-amd.ko*')"
chmod -R a+rX "$out"
"""


class Host(Struct, frozen=True):
    """The nested guest's host: its kernel, and the archive that never changes."""

    kernel: Path
    archive: Path


def host(toolbox: Toolbox, directory: str) -> Host:
    """Return the host made of the image's ``directory`` (vmlinuz, modules).

    Raises:
        MissingMachine: the image has no such kernel, or no QEMU.
    """
    try:
        files = fetch(toolbox, _COLLECT, directory, *_MODULES)
    except NotInImage as exc:
        raise MissingMachine(
            f"no kernel to host a nested KVM guest: {exc.message}",
            hint="the machine image brings one; --rebuild-images makes it anew",
        ) from exc
    init = program(toolbox, "host")
    digest = hashlib.sha256(files.name.encode() + init).hexdigest()[:20]
    path = cache.cache_dir() / "machine" / f"nested-{digest}"
    made = Host(path.with_suffix(".kernel"), path.with_suffix(".cpio"))
    with cache.locked(path.parent / ".nested.lock"):
        whole = made.kernel.exists() and made.archive.exists()
        if not whole or toolbox.engine.runtime == "host":
            _write(made.kernel, direct_kernel(read_file(files / "vmlinuz").tobytes()))
            _write(made.archive, cpio(_contents(files, init)))
    return made


def _write(path: Path, data: bytes) -> None:
    partial = path.with_suffix(".partial")
    partial.write_bytes(data)
    partial.replace(path)


def direct_kernel(vmlinuz: bytes) -> bytes:
    """Return what boots faster: the vmlinux in ``vmlinuz`` if it has a PVH entry.

    QEMU starts such an ELF file at once, where a bzImage unpacks itself under TCG.
    """
    data = np.frombuffer(vmlinuz, dtype=np.uint8)
    if not bzimage.is_bzimage(data):
        return vmlinuz
    vmlinux = bzimage.parse_bzimage(data, "vmlinuz").vmlinux.tobytes()
    return vmlinux if any(note in vmlinux for note in _PVH_NOTES) else vmlinuz


def _contents(files: Path, init: bytes) -> dict[str, bytes]:
    root = files / "root"
    contents = {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
    for path in sorted((files / "modules").iterdir()):
        name = path.name.partition(".ko")[0]
        contents[f"modules/{name}.ko"] = read_file(path).tobytes()
    contents["init"] = init
    return contents


def stub_argv(directory: str) -> tuple[str, ...]:
    """Return what joins the port of the inner gdbstub to a socket in ``directory``."""
    return (
        *("-device", "virtio-serial-pci"),
        *("-chardev", f"socket,id=stub,path={directory}/{STUB},server=on,wait=off"),
        *("-device", "virtserialport,chardev=stub"),
    )


def archive(
    outer: Host, bzimage: Path, initrd: bytes, append: str, *, debugged: bool = False
) -> bytes:
    """Return the outer machine's initramfs with the kernel under test in it."""
    argv = inner_argv(append, debugged=debugged)
    files = {
        "bzImage": bzimage.read_bytes(),
        "initrd": initrd,
        "qemu.argv": "".join(f"{word}\n" for word in argv).encode(),
    }
    return outer.archive.read_bytes() + cpio(files)


def inner_argv(append: str, *, debugged: bool = False) -> tuple[str, ...]:
    """Return the inner QEMU's command line; no word may hold a newline.

    If it is ``debugged`` the guest waits at reset for who comes to its gdbstub.
    """
    stub = ("-gdb", "unix:/guest/gdb,server=on,wait=off", "-S")
    return (
        *("/usr/bin/qemu", "-nodefaults", "-no-user-config", "-L", "/firmware"),
        *("-accel", "kvm", "-cpu", "host", "-m", str(INNER_MEMORY_MB), "-smp", "2"),
        *("-M", f"microvm,memory-backend=memory,{_MICROVM}"),
        *(
            "-object",
            f"memory-backend-file,id=memory,size={INNER_MEMORY_MB}M,{_SHARED}",
        ),
        *("-kernel", "/bzImage", "-initrd", "/initrd", "-append", append),
        *("-display", "none", "-no-reboot"),
        *("-chardev", "file,id=console,path=/guest/console"),
        *("-device", "isa-serial,index=0,chardev=console"),
        *("-chardev", "file,id=evidence,path=/guest/evidence"),
        *("-device", "isa-serial,index=1,chardev=evidence"),
        *(stub if debugged else ()),
    )
