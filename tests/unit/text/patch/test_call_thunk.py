"""Calls that go to the padding before a function, which counts call depth."""

from __future__ import annotations

import struct

from harness.text.patch.call_thunk import call_thunks, module_call_pads
from harness.text.patch.static_call import static_call_pads, static_calls
from tests.builders.running import INIT, TABLES, TEXT, Kernel, code_of, near

DEPTH = 11 * 32 + 19
PAD = 9  # bytes of the template
FUNCTION, OTHER, FULL, FORK = (TEXT + at for at in (0x400, 0x440, 0x480, 0x4C0))
TEMPLATE = b"\x65\x48\xc1\x3d" + struct.pack("<i", -0x100) + b"\x05"


def template_at(at: int, home: int) -> bytes:
    """`sarq $5, %gs:operand(%rip)` as it is at ``at``."""
    return TEMPLATE[:4] + struct.pack("<i", -0x100 + home - at) + TEMPLATE[8:]


def a_kernel(*calls: tuple[int, int]) -> Kernel:
    """Calls at offsets in .text, each of a function; FULL has no NOPs before it."""
    places = [TEXT + at for at, _ in calls]
    kernel = Kernel(
        {at: near(b"\xe8", TEXT + at, function) for at, function in calls},
        functions={
            "ret_from_fork": FORK,
            "skl_call_thunk_template": 0x800,
            "skl_call_thunk_tail": 0x800 + PAD,
        },
        tables={".call_sites": places},
    )
    kernel.text[0x800] = TEMPLATE
    for function in (FUNCTION, OTHER, FORK):
        kernel.text[function - TEXT - 16] = b"\x90" * 16 + b"\xc3"
    return kernel


def test_calls_and_padding_are_written() -> None:
    """The call goes to the template, whose operand is relocated, before the function."""
    kernel = a_kernel((0, FUNCTION), (0x20, FUNCTION))
    edits = call_thunks(kernel.linked(), kernel.said([DEPTH]))
    pad = FUNCTION - PAD
    assert code_of(kernel, edits, TEXT, 5) == near(b"\xe8", TEXT, pad)
    assert code_of(kernel, edits, TEXT + 0x20, 5) == near(b"\xe8", TEXT + 0x20, pad)
    padding = code_of(kernel, edits, FUNCTION - 16, 17)
    assert padding == b"\x90" * 7 + template_at(pad, TEXT + 0x800) + b"\xc3"
    assert edits is not None
    assert edits.counts() == {"call": 2, "padding": 1}


def test_some_functions_are_called_as_before() -> None:
    """Without NOPs before it, or if the kernel says so by name."""
    kernel = a_kernel((0, FULL), (0x20, FORK), (0x40, INIT))
    kernel.init = b"\xc3"
    edits = call_thunks(kernel.linked(), kernel.said([DEPTH]))
    for at in (0, 0x20, 0x40):
        assert code_of(kernel, edits, TEXT + at, 5) == kernel.text[at]


def test_calls_that_are_no_calls_any_more_stay() -> None:
    """An alternative may have taken one away."""
    kernel = a_kernel((0, FUNCTION))
    kernel.text[0] = b"\x90" * 5
    edits = call_thunks(kernel.linked(), kernel.said([DEPTH]))
    assert edits is not None
    assert len(edits) == 0


def test_nothing_is_done_without_call_depth_tracking() -> None:
    """The feature decides."""
    kernel = a_kernel((0, FUNCTION))
    assert call_thunks(kernel.linked(), kernel.said()) is None


def test_static_calls_are_counted_too() -> None:
    """A site goes to its function's padding, and that is written."""
    kernel = a_kernel()
    kernel.tables.clear()
    kernel.text[0] = near(b"\xe8", TEXT, OTHER)
    kernel.functions["__static_call_return0"] = FUNCTION
    kernel.variables["__SCK__one"] = (OTHER, OTHER)
    kernel.variables["__SCK__two"] = (OTHER, FUNCTION)
    one, two = kernel.address("__SCK__one"), kernel.address("__SCK__two")
    kernel.text[0x20] = near(b"\xe8", TEXT + 0x20, OTHER)
    kernel.pairs[".static_call_sites"] = [(TEXT, one), (TEXT + 0x20, two)]
    sites = static_calls(kernel.linked(), kernel.said([DEPTH]))
    pads = static_call_pads(kernel.linked(), kernel.said([DEPTH]))
    assert code_of(kernel, sites, TEXT, 5) == near(b"\xe8", TEXT, OTHER - PAD)
    # what returns 0 is a function as all others then
    assert code_of(kernel, sites, TEXT + 0x20, 5) == near(
        b"\xe8", TEXT + 0x20, FUNCTION - PAD
    )
    for function in (OTHER, FUNCTION):
        pad = function - PAD
        assert code_of(kernel, pads, pad, PAD) == template_at(pad, TEXT + 0x800)
    assert static_call_pads(kernel.linked(), kernel.said()) is None


def test_a_function_that_a_key_has_lost_keeps_its_padding() -> None:
    """If a site called it meanwhile: only the padding itself tells."""
    kernel = a_kernel()
    kernel.tables.clear()
    kernel.text[0] = near(b"\xe8", TEXT, OTHER)
    kernel.variables["__SCK__one"] = (FUNCTION, OTHER)
    kernel.pairs[".static_call_sites"] = [(TEXT, kernel.address("__SCK__one"))]
    linked, pad = kernel.linked(), FUNCTION - PAD
    never = static_call_pads(linked, kernel.said([DEPTH]))
    assert code_of(kernel, never, pad, PAD) == b"\x90" * PAD
    kernel.text[pad - TEXT] = template_at(pad, TEXT + 0x800)
    once = static_call_pads(linked, kernel.said([DEPTH]))
    assert once is not None
    assert sorted(once.address.tolist()) == [pad, OTHER - PAD]


def test_what_modules_have_called() -> None:
    """Its padding is predicted if it is exported, whole, and init memory is freed."""
    kernel = a_kernel()
    kernel.tables.clear()
    names = TABLES + 0x1000
    kernel.pairs["__ksymtab"] = [(FUNCTION, names), (OTHER, names + 4)]
    kernel.pairs["__ksymtab_strings"] = [(names + ord("a"), names + 4 + ord("b"))]
    linked, home = kernel.linked(), TEXT + 0x800
    assert not module_call_pads(linked, kernel.said([DEPTH]))
    pads = [at - PAD for at in (FUNCTION, OTHER, FORK)]
    for pad in pads:  # that of FORK no module can have had written
        kernel.text[pad - TEXT] = template_at(pad, home)
    kernel.text[pads[1] - TEXT] = template_at(pads[1], home)[:-1] + b"\x06"
    edits = module_call_pads(linked, kernel.said([DEPTH]))
    assert edits is not None
    assert edits.address.tolist() == pads[:1]
    assert edits.code.tobytes() == template_at(pads[0], home)
    assert module_call_pads(kernel.linked(), kernel.said([DEPTH])) is not None
    assert not module_call_pads(kernel.linked(), kernel.said([DEPTH]))  # by others
    assert module_call_pads(linked, kernel.said()) is None
    kernel.init = b"\xc3"
    assert module_call_pads(linked, kernel.said([DEPTH])) is None
