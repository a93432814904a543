"""Paravirt sites: what each kernel writes there, judged."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from harness.elf.feature import image_features
from harness.elf.load import load_together
from harness.elf.orc import OrcEntry
from harness.elf.program import Program
from harness.finding import Finding
from harness.text.patch.choice import Machine
from harness.text.patch.nops import K8_NOPS
from harness.variant import Platform
from harness.verify.columns import Columns, Part, read_columns
from harness.verify.texts.paravirt import Rule, check_paravirt, defective
from harness.verify.texts.view import verify_view
from harness.verify.witness import kernel_of
from tests.builders.elfwriter import (
    ALLOC,
    ET_EXEC,
    EXEC,
    LOCAL,
    OBJECT,
    R_64,
    R_PC32,
    SECTION,
    UND,
    UNDEF,
    ElfWriter,
    add_orc,
    call,
)

BASE = 0xFFFFFFFF81000000
OPS = BASE + 0x2000
PUSHED = call(16)
# struct patch_xxl of 5.3: cli, sti, push;popf, pushf;pop, cr2, cr3, cr3, wbinvd, ...
PATCH_DATA = bytes.fromhex("fafb579d9c580f20d00f20d80f22df0f094889f8")
NATIVES = {
    "native_save_fl": "9c58c3",
    "native_restore_fl": "579dc3",
    "native_irq_disable": "fac3",
    "_paravirt_nop": "c3",
    "_paravirt_ident_64": "4889f8c3",
    "native_load_idt": "c3",
}
ORDER = list(NATIVES)


def a_kernel(
    *sites: str,
    inside: Sequence[tuple[int, OrcEntry]] = (),
    types: Sequence[int] = (),
    patch_data: bytes = PATCH_DATA,
    labels: bool = False,
    vsmp: bool = False,
    rodata: bytes = b"",
) -> Program:
    """A linked kernel whose ``victim`` calls the natives named, one after the other.

    ``inside`` are table entries from the start of its first site on.
    """
    writer = ElfWriter(ET_EXEC)
    text = b""
    for name in sites:
        slot = OPS + 8 * ORDER.index(name)
        text += b"\xff\x14\x25" + (slot & 0xFFFFFFFF).to_bytes(4, "little")
    text += b"\xc3"
    victim = len(text)
    at, functions = {}, []
    for name, code in NATIVES.items():
        text += b"\xcc" * (-len(text) % 16)
        at[name] = BASE + len(text)
        functions.append((name, at[name], len(code) // 2))
        text += bytes.fromhex(code)
    section = writer.section(".text", text, flags=ALLOC | EXEC, address=BASE)
    writer.symbol("victim", section, BASE, victim)
    for name, address, size in functions:
        writer.symbol(name, section, address, size)
    if vsmp:
        writer.symbol("vsmp_patch", section, BASE, 1)
    pointers = b"".join(struct.pack("<Q", at[name]) for name in ORDER)
    data = writer.section(".data", pointers, address=OPS)
    writer.symbol("pv_ops", data, OPS, len(pointers), OBJECT)
    constants = writer.section(
        ".rodata", b"\0" + patch_data + rodata, address=BASE + 0x3000
    )
    if labels:
        start = BASE + 0x3001
        writer.symbol("start_pv_irq_ops_save_fl", constants, start, 0)
        writer.symbol("end_pv_irq_ops_save_fl", constants, start + 2, 0)
    else:
        writer.symbol(
            "patch_data_xxl", constants, BASE + 0x3001, len(patch_data), OBJECT
        )
    numbers = types or [ORDER.index(name) for name in sites]
    entries = b"".join(
        struct.pack("<QBB6x", BASE + 7 * n, number, 7)
        for n, number in enumerate(numbers)
    )
    writer.section(".parainstructions", entries, address=BASE + 0x4000)
    rows = [(0, call(8)), *inside, (victim, UND)]
    for _, address, size in functions:
        rows += [(address - BASE, call(8)), (address - BASE + size, UND)]
    add_orc(writer, section, rows, address=BASE + 0x5000)
    return writer.program("vmlinux")


def columns_of(program: Program) -> Columns:
    """The program, read."""
    columns = read_columns(program, image_features(program))
    assert columns is not None
    return columns


def part_of(program: Program) -> Part:
    """What the check came to."""
    return check_paravirt(columns_of(program))


def found(program: Program) -> tuple[Finding, ...]:
    """Its findings."""
    return part_of(program).findings


def test_inlined_code_that_objtool_never_saw() -> None:
    """BUGS C.1 #2: `pushf; pop` in the place of a call, and no entry for it."""
    finding, other = found(a_kernel("native_save_fl", "native_restore_fl"))
    assert finding.key == "paravirt/state:inlined native_save_fl"
    assert str(finding.location) == "victim+0x1"
    assert (finding.declared, finding.actual) == ("sp+8 call", "sp+16 call")
    assert finding.platforms == ("kvm", "native", "vsmp")
    assert other.key == "paravirt/state:inlined native_restore_fl"
    assert max(map(len, finding.window)) <= 100


def test_one_finding_counts_its_places() -> None:
    """Hundreds of sites of one operation have one defect."""
    (finding,) = found(a_kernel(*["native_save_fl"] * 3))
    assert finding.occurrences == 3


def test_what_moves_no_stack_is_settled_at_once() -> None:
    """Calls, NOPs and inlined code without effect on the stack need no walk."""
    names = ["native_irq_disable", "_paravirt_nop", "_paravirt_ident_64"]
    part = part_of(a_kernel(*names, "native_load_idt"))
    assert part.findings == ()
    assert part.counts == {
        "paravirt sites": 4,
        "walked paravirt sites": 0,
        "paravirt sites of unknown operation": 0,
    }


def test_entries_for_the_inlined_code_spoil_xen() -> None:
    """One table for `pushf; pop` and a call of five bytes: +1 is in the call."""
    right = [(1, PUSHED), (2, call(8))]
    assert found(a_kernel("native_save_fl", inside=right)) == ()
    late = [(1, PUSHED), (5, call(8))]
    rules = {f.rule: f for f in found(a_kernel("native_save_fl", inside=late))}
    assert rules["paravirt/ret-1"].platforms == ("xen",)
    assert rules["paravirt/ret-1"].variant == "direct call"
    assert rules["paravirt/state"].variant == "inlined native_save_fl"


def test_vsmp_calls_what_native_inlines() -> None:
    """vsmp_patch() of 4.14 to 4.19 leaves the interrupt flag's operations calls."""
    (finding,) = found(
        a_kernel(
            "native_save_fl", labels=True, vsmp=True, patch_data=bytes.fromhex("9c58")
        )
    )
    assert finding.platforms == ("kvm", "native")
    late = [(1, PUSHED), (5, call(8))]
    program = a_kernel("native_save_fl", inside=late, vsmp=True)
    rules = {f.rule: f.platforms for f in found(program)}
    assert rules["paravirt/ret-1"] == ("vsmp", "xen")


def test_nothing_is_inlined_that_the_image_does_not_hold() -> None:
    """Since 5.13 a paravirt call is made direct, whatever the function is called."""
    assert found(a_kernel("native_save_fl", patch_data=b"\0")) == ()


def test_an_operation_before_5_3() -> None:
    """There each inlined text lies between two labels."""
    code = bytes.fromhex("9c58")
    (finding,) = found(a_kernel("native_save_fl", labels=True, patch_data=code))
    assert finding.variant == "inlined native_save_fl"


def test_nops_of_another_vendor() -> None:
    """K8 NOPs of five bytes are two: a boundary at +5 of the site."""
    k8 = b"".join(code for codes in K8_NOPS for code in codes)
    inside = [(1, PUSHED), (2, call(8)), (5, PUSHED), (6, call(8))]
    (finding,) = [
        f
        for f in found(a_kernel("native_save_fl", inside=inside, rodata=k8))
        if f.rule == Rule.STATE and "NOPs" in f.variant
    ]
    assert finding.location.offset == 5


def test_an_entry_for_another_operation() -> None:
    """The kernel patches by the entry's type, not by what the code calls."""
    rules = [f.rule for f in found(a_kernel("native_irq_disable", types=[3]))]
    assert rules == ["paravirt/type"]


def a_module(*names: str) -> ElfWriter:
    """A module whose ``victim`` calls the natives named, by the kernel's pointers."""
    writer = ElfWriter()
    text = b"\xff\x15\0\0\0\0" * len(names) + b"\xc3"
    section = writer.section(".text", text, flags=ALLOC | EXEC)
    writer.symbol("victim", section, 0, len(text))
    entries = b"".join(struct.pack("<QBB6x", 0, ORDER.index(name), 6) for name in names)
    table = writer.section(".parainstructions", entries)
    ops = writer.symbol("pv_ops", UNDEF)
    code = writer.symbol("", section, kind=SECTION, binding=LOCAL)
    for n, name in enumerate(names):
        writer.relocation(section, 6 * n + 2, R_PC32, ops, 8 * ORDER.index(name) - 4)
        writer.relocation(table, 16 * n, R_64, code, 6 * n)
    add_orc(writer, section, [(0, call(8)), (len(text), UND)])
    return writer


def test_the_kernel_tells_the_operations_of_its_modules() -> None:
    """Alone a module shows none of them."""
    names = ("native_save_fl", "native_load_idt", "native_irq_disable")
    columns = columns_of(a_module(*names).program("victim.ko"))
    unknown = "paravirt sites of unknown operation"

    alone = check_paravirt(columns)
    told = check_paravirt(replace(columns, kernel=kernel_of(a_kernel())))

    assert alone.findings == ()
    assert alone.counts[unknown] == 3
    (finding,) = told.findings
    assert finding.key == "paravirt/state:inlined native_save_fl"
    assert told.counts[unknown] == 0


def test_every_rule_is_documented() -> None:
    """docs/findings.md has a section for each."""
    text = (Path(__file__).parents[4] / "docs" / "findings.md").read_text()
    assert all(f"## `{rule.value}`" in text for rule in Rule)


def test_a_view_leaves_out_every_site_that_is_told_of() -> None:
    """One finding stands for all sites of a cause; a view knows them all."""
    columns = columns_of(a_kernel(*["native_save_fl"] * 3))
    assert defective(columns) == [BASE, BASE + 7, BASE + 14]
    assert verify_view(columns, Machine(Platform.NATIVE)).findings == ()
    assert verify_view(columns, Machine(Platform.XEN)).findings == ()


def test_one_object_of_several_has_the_pointers(tmp_path: Path) -> None:
    """What the others call by name are the same operations."""
    owner = ElfWriter()
    section = owner.section(".text", b"\xc3", flags=ALLOC | EXEC)
    add_orc(owner, section, [(0, call(8)), (1, UND)])
    data = owner.section(".data", bytes(8 * len(ORDER)), flags=ALLOC)
    owner.symbol("pv_ops", data, 0, 8 * len(ORDER), OBJECT)
    paths = [tmp_path / "owner.o", tmp_path / "victim.o"]
    for path, writer in zip(paths, (owner, a_module("native_load_idt")), strict=True):
        path.write_bytes(writer.build())

    program, _ = load_together(paths, ".orc_unwind")

    assert check_paravirt(columns_of(program)).findings == ()
