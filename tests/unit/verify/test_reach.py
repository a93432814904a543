"""Reach: what control can come to, and what it cannot."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from harness.elf.orc import OrcEntry
from harness.elf.program import Program
from harness.text.patch import ORIGINAL
from harness.variant import Platform
from harness.verify.reach import reached
from tests.builders.elfwriter import UND, regs
from tests.builders.flow import IN, RODATA, TEXT, columns_of, ex_table, kernel
from tests.builders.site import ALWAYS, XENPV, Replacement, a_site

RET = "c3"


def functions(*codes: str, sections: Sequence[tuple[str, bytes, int]] = ()) -> Program:
    """Return a kernel of functions f0, f1, ... at offsets 0, 16, ..."""
    return states([IN] * len(codes), codes, sections)


def states(
    first: Sequence[OrcEntry],
    codes: Sequence[str],
    sections: Sequence[tuple[str, bytes, int]] = (),
) -> Program:
    code = "".join(one.ljust(32, "c") for one in codes)
    rows, symbols = [], []
    for number, one in enumerate(codes):
        at, size = 16 * number, len(one) // 2
        rows += [(at, first[number]), (at + size, UND)]
        symbols.append((f"f{number}", at, size))
    return kernel(code, rows, symbols, sections)


def found(program: Program, imported: Sequence[int] = ()) -> list[str]:
    """Return the functions of ``program`` that are reached."""
    imports = np.array(imported, np.uint64)
    can = reached(columns_of(program), Platform.NATIVE, imports)
    symbols = program.symbols
    begin = symbols.address
    live = can.hold(begin, begin + np.uint64(1))
    return [symbols.name[row] for row in np.flatnonzero(live).tolist()]


def at(number: int) -> int:
    return TEXT + 16 * number


def test_control_enters_at_the_first_instruction() -> None:
    """And goes where that calls and jumps, nowhere else."""
    call, jump = "e80b000000" + RET, "eb0e"
    assert found(functions(call, jump, RET, RET)) == ["f0", "f1", "f2"]


def test_behind_a_call_that_never_returns_is_nothing() -> None:
    """f0 calls f2, which hangs: what it falls into is not reached."""
    program = functions("e81b000000", RET, "ebfe")
    assert found(program) == ["f0", "f2"]


def test_data_point_to_functions() -> None:
    """Eight bytes that are where a function is; what is within one is no function."""
    words = struct.pack("<4Q", 5, at(2), at(3) + 1, at(1) >> 4)
    data = [(".data", words, RODATA)]
    assert found(functions(RET, RET, RET, "90" + RET, sections=data)) == ["f0", "f2"]


def test_lists_of_places_are_no_pointers() -> None:
    """Every function that can be traced is in __mcount_loc: nobody calls it for that."""
    listed = [("__mcount_loc", struct.pack("<Q", at(1)), RODATA)]
    assert found(functions(RET, RET, sections=listed)) == ["f0"]


def test_instructions_have_addresses_of_functions() -> None:
    """mov $f1,%rdi; lea f2(%rip),%rdi; movq $f3,8(%rdi): if they are reached."""
    absolute = "48c7c7" + struct.pack("<i", at(1) - (1 << 64)).hex() + RET
    assert found(functions(absolute, RET, RET)) == ["f0", "f1"]
    relative = "488d3d" + struct.pack("<i", 32 - 7).hex() + RET
    assert found(functions(relative, RET, RET)) == ["f0", "f2"]
    stored = "48c74708" + struct.pack("<i", at(3) - (1 << 64)).hex() + RET
    assert found(functions(stored, RET, RET, RET)) == ["f0", "f3"]
    assert found(functions(RET, absolute, RET)) == ["f0"]


def test_hardware_enters_where_an_interrupts_frame_is() -> None:
    """Nothing leads there, and the table says what is on the stack."""
    first = [IN, regs(partial=True), IN]
    assert found(states(first, [RET, "48cf", RET])) == ["f0", "f1"]


def test_modules_import() -> None:
    """What they name is reachable for them."""
    assert found(functions(RET, RET, RET), [at(2)]) == ["f0", "f2"]


def test_faults_lead_to_their_fixups() -> None:
    """A fixup behind a return is reached by what may fault before it."""
    program = functions("488b07" + RET + "31c0" + RET, sections=[ex_table((0, 4))])
    can = reached(columns_of(program), Platform.NATIVE, np.zeros(0, np.uint64))
    assert TEXT + 4 in can.addresses.tolist()


def test_a_platform_runs_the_texts_that_it_can() -> None:
    """What stays, and what it is written over; only native has the push of the flags."""
    direct = Replacement(bytes.fromhex("e800000000"), ALWAYS, flags=2)
    inline = Replacement(bytes.fromhex("9c58"), XENPV, flags=1)
    program = a_site(bytes.fromhex("ff1500000000"), [direct, inline])
    columns = columns_of(program)
    assert columns.streams is not None
    assert columns.alternatives is not None
    home = int(columns.alternatives.site_address[0])
    for platform, texts, inside in (
        (Platform.NATIVE, [ORIGINAL, 0, 1], True),
        (Platform.XEN, [ORIGINAL, 0], False),
    ):
        can = reached(columns, platform, np.zeros(0, np.uint64))
        assert columns.streams.entry[can.texts].tolist() == texts
        assert (home + 1 in can.addresses.tolist()) is inside
