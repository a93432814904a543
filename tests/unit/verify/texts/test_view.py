"""The views of all platforms, judged."""

from __future__ import annotations

import struct
from pathlib import Path

from harness.elf.feature import image_features
from harness.elf.program import Program
from harness.text.patch.choice import Machine
from harness.text.patch.view import patcher_of
from harness.variant import Platform
from harness.verify.columns import Columns, read_columns
from harness.verify.edges.flow import check_flow
from harness.verify.texts.sites import check_sites
from harness.verify.texts.view import (
    Rule,
    check_views,
    machines,
    verify_view,
    view_columns,
)
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
from tests.builders.site import XENPV, Replacement, a_site


def columns_of(program: Program) -> Columns:
    """The program, read."""
    columns = read_columns(program, image_features(program))
    assert columns is not None
    return columns


def test_each_platform_with_a_poor_and_a_rich_cpu() -> None:
    """Two views of each of the four platforms are compared."""
    assert len(machines()) == 8
    program = a_site(b"\x90" * 2, [Replacement(b"\xfc", XENPV)])
    part = check_views(columns_of(program))
    assert part.counts == {"sites that differ between views": 1}
    assert part.notes == ()


def test_vsmp_runs_what_native_runs() -> None:
    """A kernel's note says that no feature tells the two apart."""
    part = check_views(columns_of(two_sites(jump_to(5))))
    assert part.notes == ("text of 2 sites on vsmp equals that on native",)


def site_calling(entry: int, *, whole: bool = True) -> Program:
    """A site whose replacement calls a function that begins in ``sp+entry``."""
    at = 32  # of .text; .altinstr_replacement follows at its own address
    function = ("other", b"\xc3", [(0, call(entry))])
    fill = ("filler", b"\xc3", [(0, call(8))])
    probe = a_site(
        b"\x90" * 5, [Replacement(b"\xe8\0\0\0\0")], functions=[fill, function]
    )
    text = next(s for s in probe.sections if s.name == ".text")
    replacement = next(s for s in probe.sections if s.name == ".altinstr_replacement")
    relative = text.address + at - (replacement.address + 5)
    code = b"\xe8" + relative.to_bytes(4, "little", signed=True)
    return a_site(b"\x90" * 5, [Replacement(code)], functions=[fill, function])


def test_a_call_of_something_that_is_no_function() -> None:
    """What a replacement calls begins in a function's entry state."""
    assert check_views(columns_of(site_calling(8))).findings == ()
    (finding,) = check_views(columns_of(site_calling(24))).findings
    assert finding.rule == "view/call"
    assert finding.declared == "sp+24 call"
    assert finding.variant == "replacement 1 of 1 (SMAP)"
    # a helper of entry code counts the return address itself (error_entry)
    assert check_views(columns_of(site_calling(16))).findings == ()


BASE = 0xFFFFFFFF81000000


def two_sites(replacement: bytes) -> Program:
    """A kernel whose first site may become ``replacement``; the second is at +5."""
    writer = ElfWriter(ET_EXEC)
    text = b"\x90" * 10 + b"\x50\x58\xc3"
    section = writer.section(".text", text, flags=ALLOC | EXEC, address=BASE)
    writer.symbol("victim", section, BASE, len(text))
    code = BASE + 0x1000
    data = replacement + b"\xfc"
    writer.section(".altinstr_replacement", data, flags=ALLOC | EXEC, address=code)
    table, entries = BASE + 0x2000, b""
    for site, at, size in ((0, 0, len(replacement)), (5, len(replacement), 1)):
        place = table + len(entries)
        fields = struct.pack("<ii", BASE + site - place, code + at - (place + 4))
        row = Alternative(0, 0, XENPV, 5, size)
        entries += fields + row.pack(14)[8:]
    writer.section(".altinstructions", entries, address=table)
    rows = [(0, call(8)), (11, call(16)), (12, call(8)), (len(text), UND)]
    add_orc(writer, section, rows, address=BASE + 0x3000)
    return writer.program("vmlinux")


def jump_to(offset: int) -> bytes:
    """A jump of a replacement to ``offset`` of .text."""
    return b"\xe9" + struct.pack("<i", offset - (0x1000 + 5))


def test_a_branch_into_another_site() -> None:
    """No text may count on what another site holds inside."""
    assert check_views(columns_of(two_sites(jump_to(5)))).findings == ()
    (finding,) = check_views(columns_of(two_sites(jump_to(7)))).findings
    assert finding.rule == "view/target"
    assert finding.platforms == ("xen",)


def test_a_view_sees_what_is_wrong_only_there() -> None:
    """A jump to another state is wrong in the text that has it, and in no other."""
    columns = columns_of(two_sites(jump_to(11)))
    (finding,) = check_flow(view_of(columns, Platform.XEN)).findings
    assert finding.rule == "text/branch"
    assert check_flow(view_of(columns, Platform.NATIVE)).findings == ()
    # the checks of sites tell it with the name of the text
    assert verify_view(columns, Machine(Platform.XEN)).findings == ()
    assert [f.rule for f in check_sites(columns).findings] == ["alternative/exit"]


def view_of(columns: Columns, platform: Platform) -> Columns:
    """The view of ``platform`` as the checks see it."""
    patcher = patcher_of(columns.program, columns.alternatives, columns.streams)
    return view_columns(columns, patcher.view(Machine(platform)))


def test_the_original_that_xen_runs_alone() -> None:
    """One platform's text is checked as if it were all of the program."""
    # without the entry behind pushf native is wrong, and Xen PV is not
    program = a_site(bytes.fromhex("ff1500000000"), [Replacement(b"\xfc\xfc", XENPV)])
    columns = columns_of(program)
    for machine in machines():
        part = verify_view(columns, machine)
        assert part.findings == ()
        assert part.counts[f"view of {machine.platform}, sites"] >= 0
    changed = verify_view(columns, Machine(Platform.XEN)).counts
    assert changed["view of xen, sites"] == 1
    assert (
        verify_view(columns, Machine(Platform.NATIVE)).counts["view of native, sites"]
        == 0
    )


def test_every_rule_is_documented() -> None:
    """docs/findings.md has a section for each."""
    text = (Path(__file__).parents[4] / "docs" / "findings.md").read_text()
    assert all(f"## `{rule.value}`" in text for rule in Rule)


def test_nobody_returns_to_a_call_that_stuffs() -> None:
    """In a view it is plain code, and its return address still is no frame's."""
    original = bytes.fromhex("50" + "0f1f4000" + "90" + "0f1f00" + "58" + "90")
    stuffing = Replacement(bytes.fromhex("e801000000cc" + "4883c408"))
    inside = [(1, call(16)), (10, call(8))]
    columns = columns_of(a_site(original, [stuffing], inside))
    machine = Machine(Platform.NATIVE, others=True)
    assert verify_view(columns, machine).counts["view of native, sites"] == 1
    assert verify_view(columns, machine).findings == ()


def test_padding_behind_a_jump_is_not_reached() -> None:
    """What fills the site there leads nowhere, whatever the table says behind it."""
    original = bytes.fromhex("0f1f4000" + "c3")
    tail_call = Replacement(bytes.fromhex("ffe0"))
    columns = columns_of(a_site(original, [tail_call], after=UND))
    machine = Machine(Platform.NATIVE, others=True)
    patched = view_columns(
        columns,
        patcher_of(columns.program, columns.alternatives, columns.streams).view(
            machine
        ),
    )
    assert [f.rule for f in check_flow(patched).findings] == ["text/step"]
    assert verify_view(columns, machine).findings == ()
