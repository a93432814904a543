"""Static_call: calls whose target is what their key holds.

Each site is a call or a tail call, each key has a trampoline, a jump. With no function
they are a NOP and a return; a few functions are one instruction at a site, as that which
clears %rax for __static_call_return0(). Source: __static_call_transform() of
arch/x86/kernel/static_call.c and kernel/static_call_inline.c.

Sites are written when the kernel starts, those in .exit.text never again; a trampoline
is when its key gets another function than it was linked with. One that lost its function
before the kernel chose a return thunk keeps a plain return: apply_returns() mends only
those that were linked as returns (__static_call_fixup()); sites are written once more
where there is static_call_force_reinit(). When that was, only the return itself tells, so
that one bit is read from it: which of the two it is. As much is read from a trampoline
that was linked without a function (``ret; int3; nop; nop; nop``) and has none: whether
it had one in between, and so a return that the kernel wrote.
"""

from __future__ import annotations

import numpy as np

from harness.elf.program import Program
from harness.elf.sites import SiteTable, parse_sites
from harness.text.insn import U8, U64
from harness.text.patch.call_thunk import (
    counts_calls,
    is_counted,
    paddings,
    template_size,
)
from harness.text.patch.edits import Edits, Step, near
from harness.text.patch.jump_label import is_patched
from harness.text.patch.return_site import returns_at
from harness.text.patch.said import Bools, Said, bytes_at, code_at, words

_TAIL, _FLAGS = np.uint64(1), np.uint64(3)
# A call of the function is the instruction that the kernel's constant has.
_INLINED = {
    "__static_call_return0": "xor5rax",
    "__WARN_trap": "warninsn",  # 6.19 and later
    "__raw_callee_save___native_queued_spin_unlock": "unlockinsn",  # 7.3
}
_TRAMP, _KEY = "__SCT__", "__SCK__"
_VARIANTS = (
    "call",
    "nop",
    "inline",
    "jump",
    "return",
    "conditional",
    "return before thunks",
)
_CALL, _NOP, _INLINE, _JMP, _RET, _JCC, _EARLY = range(7)


def static_calls(program: Program, said: Said) -> Edits | None:
    """Return what each site of a static call is."""
    sites = parse_sites(program, SiteTable.STATIC_CALL_SITES)
    if sites is None:
        return None
    key, tail = sites.target & ~_FLAGS, (sites.target & _TAIL) != 0
    function = said.words(key)
    kept = ~is_patched(said, sites.address)
    function[kept] = words(program, key[kept])
    edits = _texts(program, said, Step.STATIC_CALL, sites.address, function, tail)
    if not said.address("static_call_force_reinit"):
        _return_early(said, edits)
    return edits


def static_call_pads(program: Program, said: Said) -> Edits | None:
    """Return the padding of the functions that sites call, where calls are counted.

    That of a function which a key was linked with and has lost is written if the site
    was meanwhile: its bytes tell, which are the template or NOPs.
    """
    sites = parse_sites(program, SiteTable.STATIC_CALL_SITES)
    if sites is None or not counts_calls(said):
        return None
    key = np.unique((sites.target & ~_FLAGS)[(sites.target & _TAIL) == 0])
    function = np.unique(said.words(key))
    lost = np.setdiff1d(words(program, key), function)
    lost = lost[is_counted(program, said, lost)]
    pads = paddings(said, lost)
    code = code_at(said.image, pads.address, pads.code.shape[1])
    was_called = (code == pads.code).all(axis=1)
    function = function[is_counted(program, said, function)]
    return paddings(said, np.concatenate([function, lost[was_called]]))


def static_tramps(program: Program, said: Said) -> Edits | None:
    """Return what the trampolines are whose key has got another function."""
    tramp, key = _pairs(program)
    if not len(tramp):
        return None
    linked, function = words(program, key), said.words(key)
    # one that had a function in between has a return of five bytes again
    emptied = (function == 0) & _is_return(said, tramp)
    moved = (linked != function) | emptied
    every = np.ones(int(moved.sum()), bool)
    step = Step.STATIC_TRAMP
    edits = _texts(program, said, step, tramp[moved], function[moved], every)
    _return_early(said, edits)
    return edits


def _pairs(program: Program) -> tuple[U64, U64]:
    """Return u64[n] twice: each trampoline and its key, whose names differ in that."""
    symbols = program.symbols
    rows: dict[str, dict[str, int]] = {_TRAMP: {}, _KEY: {}}
    for row, name in enumerate(map(str, symbols.names)):
        if name[: len(_KEY)] in rows:
            rows[name[: len(_KEY)]].setdefault(name[len(_KEY) :], row)
    both = sorted(rows[_TRAMP].keys() & rows[_KEY].keys())
    tramps = np.array([rows[_TRAMP][name] for name in both], np.int64)
    keys = np.array([rows[_KEY][name] for name in both], np.int64)
    return symbols.address[tramps], symbols.address[keys]


def _is_return(said: Said, address: U64) -> Bools:
    """Tell where the machine has a return as the kernel writes them."""
    seen, plain = code_at(said.image, address, 5), returns_at(said, address)
    early = returns_at(said, address, thunks=False)
    return np.asarray((seen == plain).all(axis=1) | (seen == early).all(axis=1))


def _return_early(said: Said, edits: Edits) -> None:
    """Make those returns plain that were written before the kernel chose a thunk."""
    plain = returns_at(said, edits.address, thunks=False)
    early = (code_at(said.image, edits.address, 5) == plain).all(axis=1)
    early &= (edits.variant == _RET) & (edits.code[:, :5] != plain).any(axis=1)
    edits.code[early, :5] = plain[early]
    edits.variant[early] = _EARLY


def _texts(
    program: Program,
    said: Said,
    step: Step,
    address: U64,
    function: U64,
    tail: Bools,
) -> Edits:
    """Return what __static_call_transform() writes at each address."""
    linked = code_at(program, address, 6)
    jcc = tail & (linked[:, 0] == 0x0F) & (linked[:, 1] & 0xF0 == 0x80)
    called = _translated(program, said, function)
    inlined = _inlined(program, said)
    known = np.isin(called, np.array(list(inlined), np.uint64))
    variant = np.where(function == 0, _NOP, np.where(known, _INLINE, _CALL))
    variant = np.where(tail, np.where(function == 0, _RET, _JMP), variant)
    variant[jcc] = _JCC
    code = linked.copy()
    _put(code, variant == _CALL, near(b"\xe8", address, called))
    _put(code, variant == _JMP, near(b"\xe9", address, function))
    _put(code, variant == _RET, returns_at(said, address))
    code[variant == _NOP, :5] = np.frombuffer(said.nop5, np.uint8)
    for at, instruction in inlined.items():
        code[(variant == _INLINE) & (called == at), :5] = instruction
    plain = np.uint64(said.address("__static_call_return"))
    if said.has("RETHUNK"):
        plain = np.uint64(said.variable("x86_return_thunk", 8) or 0)
    goes = np.where(function == 0, plain, function)
    code[jcc, 2:] = near(b"\xe9", address + np.uint64(1), goes)[jcc, 1:]
    size = np.where(jcc, 6, 5).astype(np.int64)
    return Edits(step, address, code, size, variant.astype(np.int64), _VARIANTS)


def _translated(program: Program, said: Said, function: U64) -> U64:
    """Return where calls go: with call depth tracking, to what is before a function.

    That is callthunks_translate_call_dest(); it makes __static_call_return0() a
    function as all others.
    """
    if not counts_calls(said):
        return function
    before = function - np.uint64(template_size(said))
    return np.where(is_counted(program, said, function), before, function)


def _put(code: U8, rows: Bools, new: U8) -> None:
    code[rows, : new.shape[1]] = new[rows]


def _inlined(program: Program, said: Said) -> dict[int, U8]:
    """Return what a call is of each function that is inlined, by its address."""
    pairs = [(said.address(one), said.address(by)) for one, by in _INLINED.items()]
    return {
        function: bytes_at(program, np.array([constant], np.uint64), 5)[0]
        for function, constant in pairs
        if function and constant
    }
