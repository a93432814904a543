"""Calls whose target is what their key holds."""

from __future__ import annotations

import pytest

from harness.text.patch.edits import written
from harness.text.patch.nops import NOPS
from harness.text.patch.static_call import static_calls, static_tramps
from tests.builders.running import EXIT, TEXT, Kernel, code_of, near

FUNCTION, OTHER, ZERO, TRAMP = (TEXT + at for at in (0x400, 0x440, 0x480, 0x500))
THUNK, RETURN = TEXT + 0x600, TEXT + 0x640
RETHUNK = 11 * 32 + 14
PLAIN = b"\xc3\xcc\xcc\xcc\xcc"
XOR = b"\x2e\x2e\x2e\x31\xc0"
TRAP, WARN = bytes.fromhex("67480fb93a"), TEXT + 0x680


def a_kernel(linked: bytes, function: int, *, tail: bool = False) -> Kernel:
    """One site whose key has ``function``; as linked it had FUNCTION."""
    kernel = Kernel(
        {0: linked, TRAMP - TEXT: near(b"\xe9", TRAMP, FUNCTION) + b"\x0f\xb9\xcc"},
        functions={
            "__static_call_return0": ZERO,
            "__WARN_trap": WARN,
            "__static_call_return": RETURN,
            "__SCT__one": TRAMP,
        },
        variables={"__SCK__one": (FUNCTION, function), "x86_return_thunk": (0, THUNK)},
        rodata={"xor5rax": XOR, "warninsn": TRAP},
    )
    site = (TEXT, kernel.address("__SCK__one") | tail)
    kernel.pairs[".static_call_sites"] = [site]
    return kernel


@pytest.mark.parametrize(
    ("function", "wanted"),
    [(OTHER, near(b"\xe8", TEXT, OTHER)), (0, NOPS[5]), (ZERO, XOR), (WARN, TRAP)],
)
def test_calls_are_what_the_key_says(function: int, wanted: bytes) -> None:
    """A call, a NOP without a function, the kernel's instruction for a few."""
    kernel = a_kernel(near(b"\xe8", TEXT, TRAMP), function)
    edits = static_calls(kernel.linked(), kernel.said())
    assert code_of(kernel, edits, TEXT, 6) == wanted + b"\xcc"


def test_what_is_inlined_is_the_kernels_own() -> None:
    """The prefixes have changed: the image has them, or it inlines nothing."""
    kernel = a_kernel(near(b"\xe8", TEXT, TRAMP), ZERO)
    kernel.rodata["xor5rax"] = bytes.fromhex("66664831c0")
    edits = static_calls(kernel.linked(), kernel.said())
    assert code_of(kernel, edits, TEXT, 5) == bytes.fromhex("66664831c0")
    del kernel.rodata["xor5rax"]
    edits = static_calls(kernel.linked(), kernel.said())
    assert code_of(kernel, edits, TEXT, 5) == near(b"\xe8", TEXT, ZERO)


@pytest.mark.parametrize(
    ("function", "features", "wanted"),
    [
        (OTHER, [], near(b"\xe9", TEXT, OTHER)),
        (ZERO, [], near(b"\xe9", TEXT, ZERO)),
        (0, [], PLAIN),
        (0, [RETHUNK], near(b"\xe9", TEXT, THUNK)),
    ],
)
def test_tail_calls_are_jumps_or_returns(
    function: int, features: list[int], wanted: bytes
) -> None:
    """Without a function it returns as the machine wants it."""
    kernel = a_kernel(near(b"\xe9", TEXT, TRAMP), function, tail=True)
    edits = static_calls(kernel.linked(), kernel.said(features))
    assert code_of(kernel, edits, TEXT, 5) == wanted


@pytest.mark.parametrize(
    ("function", "features", "goal"),
    [(OTHER, [], OTHER), (0, [], RETURN), (0, [RETHUNK], THUNK)],
)
def test_conditional_tail_calls_keep_their_condition(
    function: int, features: list[int], goal: int
) -> None:
    """Clang's `jcc trampoline` has six bytes."""
    kernel = a_kernel(near(b"\x0f\x84", TEXT, TRAMP), function, tail=True)
    edits = static_calls(kernel.linked(), kernel.said(features))
    assert code_of(kernel, edits, TEXT, 6) == near(b"\x0f\x84", TEXT, goal)


def test_exit_text_keeps_what_it_was_linked_with() -> None:
    """It is written when the kernel starts, and never again."""
    kernel = a_kernel(b"\x90", OTHER)
    kernel.exits = near(b"\xe8", EXIT, TRAMP)
    kernel.pairs[".static_call_sites"] = [(EXIT, kernel.address("__SCK__one"))]
    edits = static_calls(kernel.linked(), kernel.said())
    assert code_of(kernel, edits, EXIT, 5) == near(b"\xe8", EXIT, FUNCTION)


def test_a_trampoline_follows_its_key() -> None:
    """It is written when the key gets another function."""
    kernel = a_kernel(near(b"\xe8", TEXT, TRAMP), OTHER)
    edits = static_tramps(kernel.linked(), kernel.said())
    assert (
        code_of(kernel, edits, TRAMP, 8)
        == near(b"\xe9", TRAMP, OTHER) + b"\x0f\xb9\xcc"
    )


def test_a_trampoline_whose_key_is_as_linked_stays() -> None:
    """Nobody has written it."""
    kernel = a_kernel(near(b"\xe8", TEXT, TRAMP), FUNCTION)
    edits = static_tramps(kernel.linked(), kernel.said())
    assert edits is not None
    assert len(edits) == 0


def test_a_trampoline_emptied_before_the_thunk_was_chosen_returns_plainly() -> None:
    """apply_returns() does not mend it; any other bytes there are still wrong."""
    kernel = a_kernel(near(b"\xe8", TEXT, TRAMP), 0)
    machine = kernel.said([RETHUNK])
    late = static_tramps(kernel.linked(), machine)
    assert code_of(kernel, late, TRAMP, 5) == near(b"\xe9", TRAMP, THUNK)
    kernel.text[TRAMP - TEXT] = PLAIN + b"\x0f\xb9\xcc"
    early = static_tramps(a_kernel(b"\x90", 0).linked(), kernel.said([RETHUNK]))
    assert code_of(kernel, early, TRAMP, 5) == PLAIN
    assert early is not None
    assert early.counts() == {"return before thunks": 1}


@pytest.mark.parametrize("reinit", [False, True])
def test_tail_calls_emptied_early_are_mended_where_the_kernel_does(
    reinit: bool,
) -> None:
    """Without static_call_force_reinit() (6.1, 5.10) a plain return stays."""
    kernel = a_kernel(near(b"\xe9", TEXT, TRAMP), 0, tail=True)
    if reinit:
        kernel.functions["static_call_force_reinit"] = 0x700
    linked = kernel.linked()
    kernel.text[0] = PLAIN
    edits = static_calls(linked, kernel.said([RETHUNK]))
    wanted = near(b"\xe9", TEXT, THUNK) if reinit else PLAIN
    assert code_of(kernel, edits, TEXT, 5) == wanted


@pytest.mark.parametrize(
    ("seen", "kept"),
    [(PLAIN, False), (b"\xc3\xcc\x90\x90\x90", True), (b"\xc3\xcc\xcc\x90\x90", True)],
)
def test_a_trampoline_without_a_function_may_have_had_one(
    seen: bytes, kept: bool
) -> None:
    """Then its return is the kernel's own; whatever else is there is not believed."""
    linked = b"\xc3\xcc\x90\x90\x90"
    kernel = a_kernel(near(b"\xe8", TEXT, TRAMP), 0)
    kernel.variables["__SCK__one"] = (0, 0)
    kernel.text[TRAMP - TEXT] = linked + b"\x0f\xb9\xcc"
    program = kernel.linked()
    kernel.text[TRAMP - TEXT] = seen + b"\x0f\xb9\xcc"
    edits = static_tramps(program, kernel.said())
    assert edits is not None
    assert written(program, edits).read(TRAMP, 5).tobytes() == (
        linked if kept else PLAIN
    )
