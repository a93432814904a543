"""Edits: what one step of patching writes, as columns, and a text that has them.

A step looks at the text that the steps before it left, and returns what it writes
there. Where it comes to a site and leaves it as it is, that is told, too.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from harness.elf.program import Program, Section
from harness.text.insn import I64, U8, U64


class Step(enum.StrEnum):
    """The steps of patching, by the kernel's name for what they patch."""

    XEN_IRET = "xen iret"
    RUNTIME_CONST = "runtime const"
    FINEIBT = "fineibt"
    RETPOLINE = "retpoline"
    RETURN = "return"
    PARAVIRT = "paravirt"
    ALTERNATIVE = "alternative"
    CALL_THUNK = "call thunk"
    ENDBR = "endbr seal"
    SMP_LOCK = "smp lock"
    MCOUNT = "mcount"
    JUMP_LABEL = "jump label"
    STATIC_CALL = "static call"
    STATIC_TRAMP = "static call trampoline"


class Edits(Struct, frozen=True):
    """What a step writes, in the order in which it does.

    Attributes:
        step: which one.
        address: u64[n], the sites.
        code: u8[n, w], what is written there.
        size: i64[n], bytes of it that count.
        variant: i64[n], which of ``variants`` won.
        variants: what a site of this step can become.
    """

    step: Step
    address: U64
    code: U8
    size: I64
    variant: I64
    variants: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.address)

    def counts(self) -> dict[str, int]:
        """Return how many sites each variant won; only those that won any."""
        won = np.bincount(self.variant, minlength=len(self.variants)).tolist()
        pairs = zip(self.variants, won, strict=True)
        return {name: count for name, count in pairs if count}

    def flat(self) -> tuple[U64, U8]:
        """Return u64[k] and u8[k]: the address of each byte, and the byte."""
        column = np.arange(self.code.shape[1])
        used = column < self.size[:, None]
        places = self.address[:, None] + column.astype(np.uint64)
        return places[used], self.code[used]


def edits_of(step: Step, texts: Sequence[tuple[int, bytes, str]]) -> Edits:
    """Return the edits that ``texts`` are: (address, code, variant) each."""
    variants = tuple(sorted({variant for _, _, variant in texts}))
    number = {variant: at for at, variant in enumerate(variants)}
    width = max((len(code) for _, code, _ in texts), default=0)
    code = b"".join(one.ljust(width, b"\0") for _, one, _ in texts)
    return Edits(
        step,
        np.array([at for at, _, _ in texts], np.uint64),
        np.frombuffer(code, np.uint8).reshape(len(texts), width),
        np.array([len(one) for _, one, _ in texts], np.int64),
        np.array([number[variant] for _, _, variant in texts], np.int64),
        variants,
    )


def column(
    step: Step, address: U64, code: U8, variant: I64, variants: tuple[str, ...]
) -> Edits:
    """Return edits that all have the width of ``code``."""
    size = np.full(len(address), code.shape[1], np.int64)
    return Edits(step, address, code, size, variant, variants)


def joined(first: Edits, second: Edits) -> Edits:
    """Return the edits of one step, made in two parts; the second's are written last."""
    parts = (first, second)
    width = max(edits.code.shape[1] for edits in parts)
    wide = [
        np.pad(edits.code, ((0, 0), (0, width - edits.code.shape[1])))
        for edits in parts
    ]
    return Edits(
        first.step,
        np.concatenate([edits.address for edits in parts]),
        np.concatenate(wide),
        np.concatenate([edits.size for edits in parts]),
        np.concatenate([edits.variant for edits in parts]),
        first.variants,
    )


def written(program: Program, edits: Edits) -> Program:
    """Return ``program`` with ``edits`` in its code; those outside it do nothing."""
    places, code = edits.flat()
    sections: list[Section] = []
    for section in program.sections:
        if not section.executable or not section.data.size:
            sections.append(section)
            continue
        rows = inside(section, places)
        if not len(rows):
            sections.append(section)
            continue
        data = section.data.copy()
        data[offsets(section, places[rows])] = code[rows]
        sections.append(replace(section, data=data))
    return replace(program, sections=tuple(sections))


def inside(section: Section, places: U64) -> I64:
    """Return the rows of ``places`` that lie in ``section``."""
    return np.flatnonzero(
        (places >= np.uint64(section.address)) & (places < np.uint64(section.end))
    )


def offsets(section: Section, places: U64) -> I64:
    """Return i64[n], how far into ``section`` each of ``places`` is."""
    return (places - np.uint64(section.address)).astype(np.int64)


def near(opcode: bytes, address: U64, target: U64) -> U8:
    """Return u8[n, 5 or 6], near branches from each address to each target.

    ``opcode`` is what they begin with: e8, e9, or 0f 8x.
    """
    size = len(opcode) + 4
    relative = target - (address + np.uint64(size))
    code = np.empty((len(address), size), np.uint8)
    code[:, : len(opcode)] = np.frombuffer(opcode, np.uint8)
    low = (relative & np.uint64(0xFFFFFFFF)).astype("<u4")
    code[:, len(opcode) :] = low.view(np.uint8).reshape(-1, 4)
    return code


def target_of(address: U64, code: U8, at: int) -> U64:
    """Return u64[n], where near branches go whose operand is at offset ``at``."""
    operand = np.ascontiguousarray(code[:, at : at + 4]).view("<i4").reshape(-1)
    wide = operand.astype(np.int64).view(np.uint64)
    return np.asarray(address + np.uint64(at + 4) + wide)
