"""Call_thunk: calls that go to the padding before a function, which counts call depth.

With call depth tracking (``retbleed=stuff``) each direct call of a function goes to the
template ``skl_call_thunk_template``, written over the NOPs that end where the function
begins. Source: arch/x86/kernel/callthunks.c, 6.2 and later: patch_call(), patch_dest()
and skip_addr(), whose functions are named here as they are there.
"""

from __future__ import annotations

import numpy as np

from harness.elf.alternative import parse_alternatives
from harness.elf.export import parse_exports
from harness.elf.program import Program
from harness.elf.sites import SiteTable, parse_sites
from harness.text.decode import decode_all
from harness.text.insn import U8, U64
from harness.text.operand import has_modrm, parse_encoding
from harness.text.patch.edits import Edits, Step, column, joined, near, target_of
from harness.text.patch.said import Bools, Said, code_at

_CALL, _NOP = 0xE8, 0x90
_SKIPPED = (
    "error_entry",
    "paranoid_entry",
    "xen_error_entry",
    "__switch_to_asm",
    "ret_from_fork",
    "soft_restart_cpu",
    "__fentry__",
)
_RELOCATE, _RELOCATE_BYTES = "relocate_kernel", 2048  # KEXEC_CONTROL_CODE_MAX_SIZE
_VARIANTS = ("call", "padding")
_PATCHED, _PADDED = 0, 1


def call_thunks(program: Program, said: Said) -> Edits | None:
    """Return the calls that are turned, and the padding that they then go to."""
    sites = parse_sites(program, SiteTable.CALL_SITES)
    if sites is None or not counts_calls(said):
        return None
    alternatives = parse_alternatives(program)
    also = sites.address[:0] if alternatives is None else alternatives.address
    address = np.unique(np.concatenate([sites.address, also]))
    address = address[_in_core(said, address)]
    code = code_at(program, address, 5)
    target = target_of(address, code, 1)
    counted = (code[:, 0] == _CALL) & is_counted(program, said, target)
    address, target = address[counted], target[counted]
    pads = paddings(said, np.unique(target))
    calls = near(b"\xe8", address, target - np.uint64(template_size(said)))
    patched = np.full(len(address), _PATCHED, np.int64)
    return joined(pads, column(Step.CALL_THUNK, address, calls, patched, _VARIANTS))


def module_call_pads(program: Program, said: Said) -> Edits | None:
    """Return the padding of what modules have called, where calls are counted.

    callthunks_patch_module_calls() writes it before what a module calls in the kernel,
    which the kernel exports, and it stays when the module goes. So only the padding
    itself tells, which is the template or NOPs; before init memory is freed there is
    no module.
    """
    if not counts_calls(said) or said.image.section(".init.text") is not None:
        return None
    exported = np.array([*parse_exports(program).values()], np.uint64)
    function = np.unique(exported[_in_core(said, exported)])
    pads = paddings(said, function[is_counted(program, said, function)])
    size = template_size(said)
    now, before = (code_at(p, pads.address, size) for p in (said.image, program))
    called = (now == pads.code).all(axis=1) & (before != pads.code).any(axis=1)
    return paddings(said, pads.address[called] + np.uint64(size))


def counts_calls(said: Said) -> bool:
    """Whether calls are counted; what a kernel without the template has is another bit."""
    return said.has("CALL_DEPTH") and bool(said.address("skl_call_thunk_template"))


def template_size(said: Said) -> int:
    """Return how many bytes the template has."""
    first, last = "skl_call_thunk_template", "skl_call_thunk_tail"
    return said.address(last) - said.address(first)


def is_counted(program: Program, said: Said, function: U64) -> Bools:
    """Tell for which functions a call goes to their padding."""
    counted = _in_core(said, function)
    names = [said.address(name) for name in _SKIPPED]
    counted &= ~np.isin(function, np.array([at for at in names if at], np.uint64))
    if first := said.address(_RELOCATE):
        low, high = np.uint64(first), np.uint64(first + _RELOCATE_BYTES)
        counted &= (function < low) | (function >= high)
    size = template_size(said)
    pad = code_at(program, function - np.uint64(size), size)
    done = (pad == _templates(said, function - np.uint64(size))).all(axis=1)
    return np.asarray(counted & (done | (pad == _NOP).all(axis=1)))


def paddings(said: Said, function: U64) -> Edits:
    """Return the template before each function, which is_counted()."""
    pad = function - np.uint64(template_size(said))
    variant = np.full(len(pad), _PADDED, np.int64)
    return column(Step.CALL_THUNK, pad, _templates(said, pad), variant, _VARIANTS)


def _templates(said: Said, pad: U64) -> U8:
    """Return u8[n, size], the template as it is at each place."""
    size = template_size(said)
    home = said.address("skl_call_thunk_template")
    code = said.image.read(home, size)
    texts = np.tile(code, (len(pad), 1))
    insns = decode_all(code, home)
    for insn in map(insns.at, range(len(insns))):
        encoding = parse_encoding(insn.code)
        relative = encoding.mod == 0 and encoding.base == -1
        if not relative or not has_modrm(encoding.opcode):
            continue
        at = insn.address - home + encoding.immediate - 4
        operand = int.from_bytes(code[at : at + 4].tobytes(), "little", signed=True)
        moved = (np.uint64(home) - pad).view(np.int64) + operand
        texts[:, at : at + 4] = moved.astype("<i4").view(np.uint8).reshape(-1, 4)
    return texts


def _in_core(said: Said, address: U64) -> Bools:
    low, high = np.uint64(said.address("_text")), np.uint64(said.address("_etext"))
    return np.asarray((address >= low) & (address < high))
