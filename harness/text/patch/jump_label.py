"""Jump_label: branches that are a jump or a NOP by what their key holds.

Source: arch/x86/kernel/jump_label.c and jump_label_type() of kernel/jump_label.c. A
branch has two or five bytes, as linked. What is neither kernel text nor init text
(.exit.text) is never turned: it stays as linked.
"""

from __future__ import annotations

import numpy as np

from harness.elf.jump_label import parse_jump_labels
from harness.elf.program import Program
from harness.text.insn import U64
from harness.text.patch.edits import Edits, Step, near
from harness.text.patch.nops import NOPS
from harness.text.patch.said import IDEAL_NOPS, Bools, Said, code_at, words

_VARIANTS = ("nop", "jump")
_COUNTER = 4  # bytes of atomic_t, the first field of struct static_key
_SHORT = (0xEB, 0x66)  # jmp rel8, and what NOP2 begins with


def jump_labels(program: Program, said: Said) -> Edits | None:
    """Return what each branch is."""
    labels = parse_jump_labels(program)
    if labels is None:
        return None
    patched = is_patched(said, labels.address)
    on = said.words(labels.key, _COUNTER)
    on[~patched] = words(program, labels.key[~patched], _COUNTER)
    # up to 5.12 the NOPs are made the CPU's own when the kernel starts, everywhere
    own = bool(said.address(IDEAL_NOPS)) & ((on != 0) == labels.branch)
    rows = np.flatnonzero(patched | own)
    address, target = labels.address[rows], labels.target[rows]
    enabled = on[rows] != 0
    jumps = enabled ^ labels.branch[rows]
    short = np.isin(code_at(program, address, 1)[:, 0], _SHORT)
    code = np.tile(np.frombuffer(said.nop5, np.uint8), (len(rows), 1))
    code[short, :2] = np.frombuffer(NOPS[2], np.uint8)
    far = jumps & ~short
    code[far] = near(b"\xe9", address[far], target[far])
    close = jumps & short
    code[close, 0] = 0xEB
    code[close, 1] = (target[close] - address[close] - np.uint64(2)).astype(np.uint8)
    size = np.where(short, 2, 5).astype(np.int64)
    variant = jumps.astype(np.int64)
    return Edits(Step.JUMP_LABEL, address, code, size, variant, _VARIANTS)


def is_patched(said: Said, address: U64) -> Bools:
    """Tell which of ``address`` are kernel_text_address() while a kernel boots."""
    found = np.zeros(len(address), bool)
    for first, last in (("_stext", "_etext"), ("_sinittext", "_einittext")):
        low, high = np.uint64(said.address(first)), np.uint64(said.address(last))
        found |= (address >= low) & (address < high)
    return found
