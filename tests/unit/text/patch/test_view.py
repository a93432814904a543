"""The program as one machine runs it."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from harness.elf.alternative import parse_alternatives
from harness.elf.program import Program
from harness.text.decode import decode_program
from harness.text.patch import build_streams
from harness.text.patch.choice import Machine
from harness.text.patch.view import View, patcher_of, spliced
from harness.variant import Platform
from tests.builders.elfwriter import (
    ALLOC,
    ET_EXEC,
    EXEC,
    OBJECT,
    Alternative,
    ElfWriter,
)
from tests.builders.site import ALWAYS, SMAP, XENPV

BASE = 0xFFFFFFFF81000000
OPS = BASE + 0x2000
CODE = BASE + 0x1000
NATIVE_FL, NOTHING = BASE + 0x40, BASE + 0x50
XEN_FL, MAPPED_FL = BASE + 0x60, BASE + 0x68
SAVE_FL = bytes.fromhex("9c58")


def paravirt_call(
    *, nothing: bool = False, tables: bool = True, mapped: bool = False
) -> Program:
    """A kernel of 6.8 or later: `call *pv_ops+8(%rip)`, direct, or `pushf; pop`."""
    writer = ElfWriter(ET_EXEC)
    slot = OPS + 8
    call = b"\xff\x15" + struct.pack("<i", slot - (BASE + 6))
    text = (call + b"\x90" * 5 + b"\xc3").ljust(0x70, b"\xcc")
    section = writer.section(".text", text, flags=ALLOC | EXEC, address=BASE)
    for name, at in (("nop_func", NOTHING), ("native_save_fl", NATIVE_FL)):
        writer.symbol(name, section, at, 1)
    if mapped:
        writer.symbol("xen_save_fl_direct", section, MAPPED_FL, 1)
    code = b"\xe8\0\0\0\0" + SAVE_FL + b"\x0f\x01\xca"
    writer.section(".altinstr_replacement", code, flags=ALLOC | EXEC, address=CODE)
    rows = [
        (BASE, CODE, Alternative(0, 0, ALWAYS, 6, 5, flags=2)),
        (BASE, CODE + 5, Alternative(0, 0, XENPV, 6, 2, flags=1)),
        (BASE + 6, CODE + 7, Alternative(0, 0, SMAP, 5, 3)),
    ]
    table, data = BASE + 0x4000, b""
    for site, replacement, row in rows:
        at = table + len(data)
        fields = struct.pack("<ii", site - at, replacement - (at + 4))
        data += fields + row.pack(14)[8:]
    writer.section(".altinstructions", data, address=table)
    pointers = struct.pack("<QQ", 0, NOTHING if nothing else NATIVE_FL)
    ops = writer.section(".data", pointers, address=OPS)
    writer.symbol("pv_ops", ops, OPS, 16, OBJECT)
    if tables:
        xen = writer.section(
            ".init.data", struct.pack("<QQ", 0, XEN_FL), address=OPS + 0x100
        )
        writer.symbol("xen_irq_ops", xen, OPS + 0x100, 16, OBJECT)
    return writer.program("vmlinux")


def view_of(program: Program, machine: Machine) -> View:
    """What ``machine`` runs."""
    alternatives = parse_alternatives(program)
    assert alternatives is not None
    streams = build_streams(program, alternatives)
    return patcher_of(program, alternatives, streams).view(machine)


def code_of(view: View) -> bytes:
    """The first eleven bytes: both sites."""
    return view.program.read(BASE, 11).tobytes()


NOP5 = "0f1f440000"


def call_to(target: int) -> str:
    """A direct call from the first site, in hexadecimal."""
    return "e8" + struct.pack("<i", target - (BASE + 5)).hex() + "90"


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (Machine(Platform.NATIVE), "9c58" + "0f1f4000" + NOP5),
        (Machine(Platform.VSMP), "9c58" + "0f1f4000" + NOP5),
        (Machine(Platform.KVM, others=True), "9c58" + "0f1f4000" + "0f01ca6690"),
        (Machine(Platform.XEN), call_to(XEN_FL) + NOP5),
        (Machine(Platform.XEN, features={SMAP: True}), call_to(XEN_FL) + "0f01ca6690"),
    ],
)
def test_each_platform_has_its_text(machine: Machine, expected: str) -> None:
    """Sites hold what the platform and the CPU choose, padded as the kernel pads."""
    assert code_of(view_of(paravirt_call(), machine)).hex() == expected


def test_a_call_of_nothing_becomes_nops() -> None:
    """A pointer to nop_func() makes the whole direct call a NOP."""
    program = paravirt_call(nothing=True, tables=False)
    view = view_of(program, Machine(Platform.XEN))
    assert code_of(view).hex() == "660f1f440000" + NOP5


def test_what_the_image_does_not_tell_is_counted() -> None:
    """Without Xen's tables the pointer is the image's own, and that is said."""
    view = view_of(paravirt_call(tables=False), Machine(Platform.XEN))
    assert code_of(view).hex() == call_to(NATIVE_FL) + NOP5
    assert view.guessed == 1
    assert view_of(paravirt_call(), Machine(Platform.XEN)).guessed == 1
    assert view_of(paravirt_call(), Machine(Platform.NATIVE)).guessed == 0


def test_xen_maps_its_virtual_cpu() -> None:
    """The table has what early boot uses; the call is made direct after that."""
    program = paravirt_call(mapped=True)
    view = view_of(program, Machine(Platform.XEN))
    assert code_of(view).hex() == call_to(MAPPED_FL) + NOP5


def test_counts_and_the_program_itself() -> None:
    """It counts the sites and bytes that differ, and leaves the linked one alone."""
    program = paravirt_call()
    before = program.read(BASE, 11).tobytes()
    view = view_of(program, Machine(Platform.NATIVE))
    after = code_of(view)
    assert program.read(BASE, 11).tobytes() == before
    assert view.sites == 2
    assert view.changed == sum(a != b for a, b in zip(before, after, strict=True))
    assert view.start.tolist() == [BASE, BASE + 6]


@pytest.mark.parametrize("platform", Platform)
def test_splicing_decodes_what_a_decode_of_all_finds(platform: Platform) -> None:
    """Only the sites are decoded anew; the result is that of the whole program."""
    program = paravirt_call()
    view = view_of(program, Machine(platform))
    some = spliced(decode_program(program), view)
    everything = decode_program(view.program)
    for name in ("address", "size", "kind", "target"):
        left, right = getattr(some, name), getattr(everything, name)
        assert np.array_equal(left, right), name
