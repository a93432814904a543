"""What a boot has covered of a kernel that two functions are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.boot.shadow.record import Record
from harness.elf.feature import Features
from harness.elf.program import Program
from harness.result import Kind
from harness.stages.covered import Covered, covered
from harness.variant import Platform
from tests.builders.elfwriter import UND, ElfWriter
from tests.builders.flow import IN, TEXT, kernel
from tests.builders.site import SITE, Replacement, a_site


def boot(program: Program, *executed: tuple[int, str, int], **more: object) -> Covered:
    """Return what was covered by (address, code, verified); else it was not true."""
    code = [bytes.fromhex(code).ljust(16, b"\0") for _, code, _ in executed]
    verified = np.array([right for _, _, right in executed], np.uint64)
    record = Record(
        {},
        (),
        np.array([at for at, _, _ in executed], np.uint64),
        verified,
        np.array([5 - right for _, _, right in executed], np.uint64),
        np.zeros(len(executed), np.int64),
        np.frombuffer(b"".join(code), np.uint8).reshape(-1, 16),
    )
    modules = more.get("modules", ())
    names = Features({}, 0, "test")
    return covered(program, names, modules, Platform.NATIVE, record)  # type: ignore[arg-type]


CODE = "90" + "c3" + "cc" * 14 + "c3"
ROWS = [(0, IN), (2, UND), (16, IN), (17, UND)]
SYMBOLS = [("f", 0, 2), ("g", 16, 1)]


def test_entries_and_functions() -> None:
    """Of two, one is reached; what is executed beyond that is said."""
    program = kernel(CODE, ROWS, SYMBOLS)
    clean = boot(program, (TEXT, "90", 5))
    assert clean.counts["entries_reachable"] == clean.counts["entries_verified"] == 1
    assert clean.counts["functions_reachable"] == 1
    assert clean.beyond == 0
    wrong = boot(program, (TEXT, "90", 0), (TEXT + 16, "c3", 5))
    assert wrong.counts["entries_executed"] == 1
    assert wrong.counts["entries_verified"] == 0
    assert wrong.beyond == 1


def test_what_was_patched_into_an_instruction_is_reached_with_it() -> None:
    """A call by way of a thunk becomes one through a register, and a NOP."""
    call = "e81b000000c3"  # of g, 32 bytes on
    rows = [(0, IN), (32, IN), (33, UND)]
    symbols = [("f", 0, 6), ("g", 32, 1)]
    program = kernel(call + "cc" * 26 + "c3", rows, symbols)
    patched = boot(program, (TEXT, "ffd0", 1), (TEXT + 2, "0f1f00", 1))
    assert patched.beyond == 0
    never = boot(program, (TEXT + 6, "ffd0", 1), (TEXT + 15, "90", 1))
    assert never.beyond == 2


def test_what_was_patched_in_front_of_a_function_is_reached_with_it() -> None:
    """Calls of g go to what counts them, the end of which was padding before."""
    call = "e81b000000c3"  # of g, 32 bytes on
    code = call + "cc" * 10 + "90" * 16 + "c3"
    rows = [(0, IN), (6, UND), (32, IN), (33, UND)]
    program = kernel(code, rows, [("f", 0, 6), ("g", 32, 1)])
    ran = [(TEXT + 20, "6548c13c25", 1), (TEXT + 31, "90", 1)]
    assert boot(program, *ran).beyond == 0
    assert boot(program, *ran[1:]).beyond == 1, "nothing was written there"
    lone = kernel("c3" + code[2:], rows, [("f", 0, 1), ("g", 32, 1)])
    assert boot(lone, *ran).beyond == 2, "the function is not reached"


def test_what_was_patched_in_a_small_function_in_front_is_not() -> None:
    """It is executed and not reached: a graph that lacks an edge must not look whole."""
    call = "e82b000000c3"  # of h, 48 bytes on
    small = "e800000000" + "31c0" + "e900000000" + "90" * 4  # __fentry__; the thunk
    rows = [(0, IN), (6, UND), (32, IN), (44, UND), (48, IN), (49, UND)]
    symbols = [("f", 0, 6), ("g", 32, 12), ("h", 48, 1)]
    program = kernel(call + "cc" * 26 + small + "c3", rows, symbols)
    ran = (TEXT + 32, "0f1f440000", 1), (TEXT + 37, "31c0", 1), (TEXT + 39, "c3", 1)
    assert boot(program, *ran).beyond == 3


def test_a_hash_in_front_may_be_written_over() -> None:
    """What kCFI has there becomes FineIBT's preamble."""
    call = "e81b000000c3"
    preamble = "b812345678" + "90" * 11
    rows = [(0, IN), (6, UND), (32, IN), (33, UND)]
    symbols = [("f", 0, 6), ("__cfi_g", 16, 16), ("g", 32, 1)]
    program = kernel(call + "cc" * 10 + preamble + "c3", rows, symbols)
    ran = (TEXT + 16, "f30f1efa", 1), (TEXT + 20, "4181ea12345678", 1)
    assert boot(program, *ran, (TEXT + 31, "90", 1)).beyond == 0


def test_what_a_module_imports_is_reachable(tmp_path: Path) -> None:
    """The module is one that the guest gets."""
    writer = ElfWriter()
    writer.section(".modinfo", b"\0depends=\0")
    writer.symbol("g", 0, binding=1)
    (tmp_path / "m.ko").write_bytes(writer.build())
    found = boot(kernel(CODE, ROWS, SYMBOLS), modules=[tmp_path / "m.ko"])
    assert found.counts["functions_reachable"] == 2


def test_sites_and_their_texts() -> None:
    """A site that is not verified is cold, and as hot as its function."""
    program = a_site(b"\x90\x90", [Replacement(b"\xf9")])
    first = int(program.executable[0].address)
    idle = boot(program, (first, "f30f1efa", 3))
    assert idle.counts["sites_reachable"] == 1
    assert idle.counts["texts_reachable"] == 2
    ((_, cold),) = idle.coverage.cold.items()
    assert cold.place.startswith(f"victim+{SITE:#x} (")
    assert cold.heat == 5
    busy = boot(program, (first + SITE, "f9", 1))
    assert busy.counts["sites_verified"] == busy.counts["texts_verified"] == 1
    assert not busy.coverage.cold
    assert busy.coverage.things[Kind.TEXTS].verified.sum() == 1


@pytest.mark.parametrize("padding", ["0f1f00", "666690"])
def test_texts_are_padded_as_the_cpu_likes_it(padding: str) -> None:
    """5.10 writes the NOPs of its CPU's vendor, which an image cannot know."""
    program = a_site(b"\x31\xc0\x90\x90", [Replacement(b"\xf9")], size=13)
    first = int(program.executable[0].address)
    found = boot(program, (first + SITE + 1, padding, 1))
    assert found.foreign == 0
    assert found.coverage.things[Kind.TEXTS].verified.sum() == 1
