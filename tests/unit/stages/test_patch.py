"""Patching a kernel's file for a platform."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from harness.elf.load import load
from harness.errors import UserError
from harness.stages.patch import LINKED, machine_of, patch
from harness.text.patch.choice import Machine
from harness.variant import Platform
from tests.builders.elfwriter import (
    ALLOC,
    ET_EXEC,
    EXEC,
    UND,
    Alternative,
    ElfWriter,
    add_orc,
    call,
)
from tests.builders.site import SMAP, XENPV

BASE = 0xFFFFFFFF81000000


def a_vmlinux(path: Path) -> Path:
    """A kernel of two sites of three NOPs: cld on Xen PV, clac with SMAP."""
    writer = ElfWriter(ET_EXEC)
    text = b"\x90" * 6 + b"\xc3"
    section = writer.section(".text", text, flags=ALLOC | EXEC, address=BASE)
    writer.symbol("victim", section, BASE, len(text))
    code, table = BASE + 0x1000, BASE + 0x2000
    data = bytes.fromhex("fc0f01ca")
    writer.section(".altinstr_replacement", data, flags=ALLOC | EXEC, address=code)
    entries = b""
    for site, at, size, bit in ((0, 0, 1, XENPV), (3, 1, 3, SMAP)):
        place = table + len(entries)
        fields = struct.pack("<ii", BASE + site - place, code + at - (place + 4))
        entries += fields + Alternative(0, 0, bit, 3, size).pack(14)[8:]
    writer.section(".altinstructions", entries, address=table)
    add_orc(writer, section, [(0, call(8)), (len(text), UND)], address=BASE + 0x3000)
    path.write_bytes(writer.build())
    return path


def test_the_file_as_xen_runs_it(tmp_path: Path) -> None:
    """The written file has Xen's text; the result says what was assumed."""
    path, target = a_vmlinux(tmp_path / "vmlinux"), tmp_path / "vmlinux.xen"
    patched = patch(path, Machine(Platform.XEN), target, check=True)
    assert load(target).read(BASE, 7).tobytes().hex() == "fc6690" + "0f1f00" + "c3"
    assert (patched.sites, patched.bytes) == (2, 5)
    assert (patched.era, patched.platform, patched.findings) == ("E5", "xen", ())
    assert patched.notes == (
        "ALWAYS, XENPV; the CPU has none of the other features",
        LINKED,
    )
    assert path.read_bytes() != target.read_bytes()


def test_features_by_name(tmp_path: Path) -> None:
    """A feature is named as the kernel names it, or by word and bit."""
    path = a_vmlinux(tmp_path / "vmlinux")
    for name in ("SMAP", "smap", "X86_FEATURE_SMAP", "9*32+20"):
        machine = machine_of(path, Platform.KVM, {name: True}, others=False)
        assert machine.features == {SMAP: True}
    with pytest.raises(UserError, match="no feature FOO"):
        machine_of(path, Platform.KVM, {"FOO": True}, others=False)


def test_a_module_cannot_be_patched(tmp_path: Path) -> None:
    """It is patched where it is loaded, which its file does not know."""
    writer = ElfWriter()
    writer.section(".text", b"\x90", flags=ALLOC | EXEC)
    path = tmp_path / "crc7.ko"
    path.write_bytes(writer.build())
    with pytest.raises(UserError, match="not linked"):
        patch(path, Machine(Platform.XEN), None)
