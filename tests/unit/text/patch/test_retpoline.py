"""Branches through the thunk of a register."""

from __future__ import annotations

import pytest

from harness.text.patch.endbr import POISON_6_18
from harness.text.patch.retpoline import retpolines
from tests.builders.running import TEXT, Kernel, code_of, near

RETPOLINE, LFENCE, DEPTH = 11 * 32 + 12, 11 * 32 + 13, 11 * 32 + 19
THUNKS, CALLS, JUMPS = (TEXT + at for at in (0x400, 0x600, 0x800))
RAX, R11 = 0, 11


def a_kernel(opcode: bytes, register: int) -> Kernel:
    """One site that branches to the thunk of ``register``."""
    thunk = THUNKS + 32 * register
    return Kernel(
        {0: near(opcode, TEXT, thunk)},
        functions={
            "__x86_indirect_thunk_array": THUNKS,
            "__x86_indirect_call_thunk_array": CALLS,
            "__x86_indirect_jump_thunk_array": JUMPS,
            "skl_call_thunk_template": 0xA00,
        },
        tables={".retpoline_sites": [TEXT]},
    )


@pytest.mark.parametrize(
    ("opcode", "register", "features", "wanted"),
    [
        ("e8", RAX, [], "ffd0 0f1f00"),
        ("e8", R11, [], "41ffd3 6690"),
        ("e9", RAX, [], "ffe0 cc 6690"),
        ("e9", R11, [], "41ffe3 cc 90"),
        ("2ee8", R11, [], "41ffd3 0f1f00"),
        ("2ee9", RAX, [], "ffe0 cc 0f1f00"),
        ("0f85", RAX, [], "7404 ffe0 cc 90"),
        ("0f84", R11, [], "7504 41ffe3 cc"),
        ("e8", RAX, [RETPOLINE, LFENCE], "0faee8 ffd0"),
        ("2ee8", R11, [RETPOLINE, LFENCE], "0faee8 41ffd3"),
        ("2ee9", RAX, [RETPOLINE, LFENCE], "0faee8 ffe0 cc"),
    ],
)
def test_go_through_the_register_where_no_thunk_is_wanted(
    opcode: str, register: int, features: list[int], wanted: str
) -> None:
    """Behind a jump comes an int3, then NOPs; a fence where the CPU wants one."""
    kernel = a_kernel(bytes.fromhex(opcode), register)
    edits = retpolines(kernel.linked(), kernel.said(features))
    code = bytes.fromhex(wanted)
    assert code_of(kernel, edits, TEXT, len(code)) == code


def test_a_fence_that_does_not_fit_leaves_the_thunk() -> None:
    """lfence and call *%r11 are six bytes."""
    kernel = a_kernel(b"\xe8", R11)
    edits = retpolines(kernel.linked(), kernel.said([RETPOLINE, LFENCE]))
    assert code_of(kernel, edits, TEXT, 5) == kernel.text[0]
    assert edits is not None
    assert edits.counts() == {"kept": 1}


def test_thunks_stay_with_retpolines() -> None:
    """The usual mitigation."""
    kernel = a_kernel(b"\xe8", RAX)
    edits = retpolines(kernel.linked(), kernel.said([RETPOLINE]))
    assert code_of(kernel, edits, TEXT, 5) == kernel.text[0]


@pytest.mark.parametrize(
    ("opcode", "array"),
    [("e8", CALLS), ("e9", JUMPS), ("2ee8", CALLS), ("2ee9", JUMPS), ("0f85", JUMPS)],
)
def test_call_depth_has_thunks_of_its_own(opcode: str, array: int) -> None:
    """One array for calls, one for jumps."""
    kernel = a_kernel(bytes.fromhex(opcode), R11)
    edits = retpolines(kernel.linked(), kernel.said([RETPOLINE, DEPTH]))
    wanted = near(bytes.fromhex(opcode), TEXT, array + 32 * R11)
    assert code_of(kernel, edits, TEXT, len(wanted)) == wanted


@pytest.mark.parametrize(
    ("opcode", "register", "features", "wanted"),
    [
        ("e8", RAX, [], "2e2e2e ffd0"),
        ("e8", R11, [], "2e2e 41ffd3"),
        ("2ee8", R11, [], "2e2e2e 41ffd3"),
        ("2ee8", RAX, [], "ffd0 0f1f4000"),
        ("e9", RAX, [], "ffe0 cccccc"),
        ("0f85", RAX, [], "7404 ffe0 cccc"),
        ("e8", RAX, [RETPOLINE, LFENCE], "0faee8 ffd0"),
    ],
)
def test_since_6_18_calls_are_stuffed_with_prefixes(
    opcode: str, register: int, features: list[int], wanted: str
) -> None:
    """Up to three; behind a jump all is INT3. Its ENDBR poison tells the kernel."""
    kernel = a_kernel(bytes.fromhex(opcode), register)
    kernel.text[0x40] = b"\xb8" + POISON_6_18 + b"\xc3"
    kernel.functions["apply_seal_endbr"] = 0x40
    edits = retpolines(kernel.linked(), kernel.said(features))
    code = bytes.fromhex(wanted)
    assert code_of(kernel, edits, TEXT, len(code)) == code


@pytest.mark.parametrize(
    ("k8", "opcode", "wanted"),
    [
        (False, "e8", "ffd0 0f1f00"),
        (False, "e9", "ffe0 0f1f00"),
        (True, "e9", "ffe0 666690"),
        (True, "2ee8", "ffd0 66666690"),
    ],
)
def test_up_to_5_12_what_is_left_are_the_cpus_nops(
    k8: bool, opcode: str, wanted: str
) -> None:
    """5.10's stable kernels have retpoline sites, and no INT3 behind a jump."""
    kernel = a_kernel(bytes.fromhex(opcode), RAX)
    kernel.variables = {"k8_nops": (0, 0), "ideal_nops": (0, 0)}
    kernel.variables["ideal_nops"] = (0, kernel.address("k8_nops") * k8)
    edits = retpolines(kernel.linked(), kernel.said())
    code = bytes.fromhex(wanted)
    assert code_of(kernel, edits, TEXT, len(code)) == code


def test_unsafe_branches_go_to_a_thunk_of_the_machines() -> None:
    """In the lower half of a cache line; where the page is, the machine tells."""
    page, its = 0xFFFFFFFF80FFF000, 700
    places = [TEXT, TEXT + 0x20, TEXT + 0x40]
    kernel = a_kernel(b"\xe8", RAX)
    kernel.text |= {at - TEXT: near(b"\xe8", at, THUNKS) for at in places}
    kernel.tables[".retpoline_sites"] = places
    kernel.names = {"INDIRECT_THUNK_ITS": its}
    linked = kernel.linked()
    kernel.text[0] = near(b"\xe8", TEXT, page + 32)
    edits = retpolines(linked, kernel.said([its]))
    assert code_of(kernel, edits, TEXT, 5) == near(b"\xe8", TEXT, page + 32)
    plain = bytes.fromhex("ffd0 0f1f00")
    assert code_of(kernel, edits, TEXT + 0x20, 5) == plain
    wanted = near(b"\xe8", TEXT + 0x40, page + 35)
    assert code_of(kernel, edits, TEXT + 0x40, 5) == wanted
    assert edits is not None
    assert edits.counts() == {"its thunk": 2, "indirect": 1}


def test_a_bit_of_that_number_is_another_one_where_no_calls_are_counted() -> None:
    """In 5.10 it is: a kernel without the template has no call depth tracking."""
    kernel = a_kernel(b"\xe8", RAX)
    del kernel.functions["skl_call_thunk_template"]
    edits = retpolines(kernel.linked(), kernel.said([RETPOLINE, DEPTH]))
    assert code_of(kernel, edits, TEXT, 5) == kernel.text[0]
