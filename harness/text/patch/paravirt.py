"""Paravirt: what a kernel writes at the sites of .parainstructions (4.14 - 6.7).

Each site is an indirect call (or jump) through a pointer of pv_ops. Patching makes it
direct, or NOPs where the pointer is to _paravirt_nop(). Up to 5.12 native_patch() writes
the operation itself in its place, such as ``pushf; pop %rax``: code that objtool has
never seen. Xen writes calls; so did vSMP's vsmp_patch() of 4.14 to 4.19 for the four
operations on the interrupt flag.

Which operation a site stands for, the site itself tells by its operand; what the
operation is natively, the pointer in the image; what is inlined, the image's own copy of
it: ``patch_data_xxl`` since 5.3, before that the code between ``start_pv_irq_ops_save_fl``
and ``end_pv_irq_ops_save_fl``. Nothing is taken for inlined that the image does not hold.

Source: arch/x86/kernel/paravirt.c, paravirt_patch.c (paravirt_patch_64.c before 5.3) and
vsmp_64.c.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from harness.elf.paravirt import Parainstructions
from harness.elf.program import Program
from harness.text.decode import decode_all
from harness.text.insn import I64, U8, U64, Insn, InsnKind
from harness.text.patch.kind import Era, NopTable
from harness.text.patch.nops import nops
from harness.text.patch.pointer import names_at
from harness.text.patch.streams import gather

_LARGEST = 1 << 10  # bytes; pv_ops has seven hundred at most
_POINTER = 8
_NEAR = 5  # bytes of a direct call or jump
_WIDTH = 8
_UD2 = b"\x0f\x0b"
_OPS = "pv_ops"
_NOTHING = frozenset({"_paravirt_nop", "paravirt_nop"})
_PATCH_DATA = ("patch_data_xxl", "patch_data_lock")
_PATCH_BYTES = 64  # more than either of them has

# The native functions that native_patch() inlines: what it writes, and the operation's
# name in the labels that 4.14 to 5.2 have.
_INLINED = {
    "native_save_fl": ("9c58", "pv_irq_ops_save_fl"),
    "native_restore_fl": ("579d", "pv_irq_ops_restore_fl"),
    "native_irq_disable": ("fa", "pv_irq_ops_irq_disable"),
    "native_irq_enable": ("fb", "pv_irq_ops_irq_enable"),
    "native_read_cr2": ("0f20d0", "pv_mmu_ops_read_cr2"),
    "native_read_cr3": ("0f20d8", "pv_mmu_ops_read_cr3"),
    "__native_read_cr3": ("0f20d8", "pv_mmu_ops_read_cr3"),
    "native_write_cr3": ("0f22df", "pv_mmu_ops_write_cr3"),
    "native_flush_tlb_single": ("0f013f", "pv_mmu_ops_flush_tlb_single"),
    "native_clts": ("0f06", "pv_cpu_ops_clts"),
    "native_wbinvd": ("0f09", "pv_cpu_ops_wbinvd"),
    "native_swapgs": ("0f01f8", "pv_cpu_ops_swapgs"),
    "native_usergs_sysret64": ("0f01f8480f07", "pv_cpu_ops_usergs_sysret64"),
    "_paravirt_ident_64": ("4889f8", "_mov64"),
    "__raw_callee_save___native_queued_spin_unlock": (
        "c60700",
        "pv_lock_ops_queued_spin_unlock",
    ),
    "__raw_callee_save___native_vcpu_is_preempted": (
        "31c0",
        "pv_lock_ops_vcpu_is_preempted",
    ),
}
# What vsmp_patch() hands to paravirt_patch_default() instead.
_VSMP_CALLS = frozenset(
    {"native_save_fl", "native_restore_fl", "native_irq_disable", "native_irq_enable"}
)


class Action(enum.IntEnum):
    """What is written for an operation as the image's own pointer has it."""

    UNKNOWN = 0
    CALL = 1
    JUMP = 2
    NOTHING = 3
    INLINE = 4


class Operation(Struct, frozen=True):
    """One operation: a pointer of pv_ops.

    Attributes:
        slot: address of the pointer; 0 if the site does not tell.
        function: what the image has in it, 0 where the object does not tell.
        name: of that function, or empty.
        action: what a native kernel makes of its sites.
        code: what it inlines.
        vsmp_calls: on vSMP up to 4.19 it is a call instead.
    """

    slot: int
    function: int
    name: str
    action: Action
    code: bytes = b""
    vsmp_calls: bool = False


class Paravirt(Struct, frozen=True):
    """The sites of a program with their operations.

    Attributes:
        address: u64[n].
        length: i64[n].
        type: i64[n], as the entry says: an index of pointers from pv_ops on.
        jumps: bool[n] as 0 or 1, it is a jump.
        operation: i64[n], into ``operations``.
        operations: each once.
        base: address of pv_ops as the sites see it; 0 where there is none (4.14 to
            4.19 have a structure per group).
        era: how the kernel pads.
    """

    address: U64
    length: I64
    type: I64
    jumps: I64
    operation: I64
    operations: tuple[Operation, ...]
    base: int
    era: Era

    def __len__(self) -> int:
        return len(self.address)

    def native(self, site: int, table: NopTable = NopTable.P6) -> list[Insn]:
        """Return the text that a native kernel writes; nothing where it is unknown."""
        operation = self.operations[int(self.operation[site])]
        at, end = self._extent(site)
        if operation.action is Action.UNKNOWN:
            return []
        if operation.action is Action.NOTHING:
            return list(nops(at, end, self.era, table))
        if operation.action is Action.INLINE:
            code = [_at(insn, at) for insn in decoded(operation.code)]
            return [*code, *nops(at + len(operation.code), end, self.era, table)]
        return self.direct(site, operation.function, table)

    def direct(
        self, site: int, target: int = 0, table: NopTable = NopTable.P6
    ) -> list[Insn]:
        """Return the text with a direct call (or jump); 0 is a target not known."""
        at, end = self._extent(site)
        jump = bool(self.jumps[site])
        kind = InsnKind.JMP if jump else InsnKind.CALL
        relative = target - (at + _NEAR) if target else 0
        code = (b"\xe9" if jump else b"\xe8") + relative.to_bytes(
            4, "little", signed=True
        )
        first = Insn(at, _NEAR, kind, target, code)
        return [first, *nops(at + _NEAR, end, self.era, table)]

    def trap(self, site: int, table: NopTable = NopTable.P6) -> list[Insn]:
        """Return the text that 5.10 writes for a null pointer."""
        at, end = self._extent(site)
        first = Insn(at, len(_UD2), InsnKind.UD, 0, _UD2)
        return [first, *nops(at + len(_UD2), end, self.era, table)]

    def _extent(self, site: int) -> tuple[int, int]:
        at = int(self.address[site])
        return at, at + int(self.length[site])


def read_paravirt(
    program: Program,
    sites: Parainstructions,
    era: Era,
    operations: Sequence[Operation] = (),
) -> Paravirt:
    """Tell the operation of each of ``sites``.

    A module's pointers lie in its kernel, whose ``operations`` they are (see
    :func:`read_operations`); without them nothing is known of a module's.
    """
    length = sites.length.astype(np.int64)
    width = np.minimum(length, _WIDTH)
    cells, _ = gather(program, sites.address, width, _WIDTH)
    base = program.symbols.find(_OPS) or 0
    slot = _slots(sites.address, cells)
    for other in _others(program, base):
        near = (slot >= np.uint64(other)) & (slot < np.uint64(other + _LARGEST))
        slot[near] += np.uint64((base - other) % (1 << 64))
    unknown = (slot == 0) & (base != 0)
    slot[unknown] = base + _POINTER * sites.type[unknown].astype(np.uint64)
    slots, operation = np.unique(slot, return_inverse=True)
    operation = operation.reshape(-1).astype(np.int64)
    jumps = ((cells[:, 0] == 0xFF) & (cells[:, 1] >> 3 & 7 == 4)).astype(np.int64)
    shortest = np.full(len(slots), 255, np.int64)
    np.minimum.at(shortest, operation, length)
    jumping = np.zeros(len(slots), np.int64)
    np.maximum.at(jumping, operation, jumps)
    image = _Image(program)
    given = {base + one.slot: one for one in operations if base}
    found = tuple(
        _fitted(
            replace(given[at], slot=at) if at in given else image.operation(at),
            jump=bool(jump),
            length=least,
        )
        for at, jump, least in zip(
            slots.tolist(), jumping.tolist(), shortest.tolist(), strict=True
        )
    )
    return Paravirt(
        sites.address,
        length,
        sites.type.astype(np.int64),
        jumps,
        operation,
        found,
        base,
        era,
    )


def _others(program: Program, base: int) -> list[int]:
    """Return where pv_ops is besides: one object of several has it, the others call it.

    To those it lies in the place of another object's symbol.
    """
    rows = program.symbols.name.rows(_OPS)
    places = set(program.symbols.address[rows].tolist())
    return sorted(places - {base})


def read_operations(kernel: Program) -> tuple[Operation, ...]:
    """Return the operations of the linked ``kernel``; slots count from its pv_ops.

    None before 4.20, which had a structure for each group of operations.
    """
    symbols = kernel.symbols
    index = symbols.find_index(_OPS)
    if index is None or kernel.relocatable:
        return ()
    base, size = int(symbols.address[index]), int(symbols.size[index])
    image = _Image(kernel)
    found = (image.operation(at) for at in range(base, base + size, _POINTER))
    return tuple(
        replace(one, slot=one.slot - base)
        for one in found
        if one.action is not Action.UNKNOWN
    )


def _slots(address: U64, cells: U8) -> U64:
    """Return u64[n], the pointer that each indirect call or jump goes through."""
    opcode = cells[:, 0].astype(np.int64) << 8 | cells[:, 1]
    absolute = (opcode == 0xFF14) & (cells[:, 2] == 0x25)
    relative = np.isin(opcode, (0xFF15, 0xFF25))
    low = np.ascontiguousarray(cells[:, 2:6]).view("<i4").reshape(-1).astype(np.int64)
    high = np.ascontiguousarray(cells[:, 3:7]).view("<i4").reshape(-1).astype(np.int64)
    slot = np.zeros(len(address), np.uint64)
    slot[absolute] = high[absolute].view(np.uint64)
    slot[relative] = address[relative] + (low[relative] + 6).view(np.uint64)
    return slot


class _Image:
    """What the image tells of operations."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._vsmp = program.symbols.find("vsmp_patch") is not None
        self._data = b"".join(map(self._object, _PATCH_DATA))

    def operation(self, slot: int) -> Operation:
        """Tell the operation of the pointer at ``slot``, called from a long site."""
        readable = slot and not self._program.relocatable
        function = self._pointer(slot) if readable else 0
        if not function:
            return Operation(slot, 0, "", Action.UNKNOWN)
        names = names_at(self._program, function)
        if names & _NOTHING:
            return Operation(slot, function, min(names & _NOTHING), Action.NOTHING)
        for name in sorted(names & _INLINED.keys()):
            code = bytes.fromhex(_INLINED[name][0])
            if self._inlines(code, _INLINED[name][1]):
                calls = self._vsmp and name in _VSMP_CALLS
                return Operation(slot, function, name, Action.INLINE, code, calls)
        return Operation(slot, function, min(names, default=""), Action.CALL)

    def _inlines(self, code: bytes, label: str) -> bool:
        if code in self._data:
            return True
        start = self._program.symbols.find(f"start_{label}")
        end = self._program.symbols.find(f"end_{label}")
        if start is None or end is None or end - start != len(code):
            return False
        return self._program.read(start, end - start).tobytes() == code

    def _object(self, name: str) -> bytes:
        symbols = self._program.symbols
        index = symbols.find_index(name)
        if index is None or symbols.section[index] < 0:
            return b""
        at = int(symbols.address[index])
        section = self._program.section_at(at)
        if section is None:
            return b""
        size = min(int(symbols.size[index]) or _PATCH_BYTES, section.end - at)
        return self._program.read(at, size).tobytes()

    def _pointer(self, at: int) -> int:
        section = self._program.section_at(at)
        if section is None or not section.data.size or at + _POINTER > section.end:
            return 0
        return int(self._program.read(at, _POINTER).view("<u8")[0])


def _fitted(operation: Operation, *, jump: bool, length: int) -> Operation:
    """Return what is made of a site of ``length`` bytes."""
    if operation.action is Action.INLINE and len(operation.code) <= length:
        return operation
    if operation.action not in (Action.INLINE, Action.CALL):
        return operation
    action = Action.JUMP if jump else Action.CALL
    if length < _NEAR:
        action = Action.UNKNOWN
    return replace(operation, action=action, code=b"", vsmp_calls=False)


@functools.cache
def decoded(code: bytes) -> tuple[Insn, ...]:
    """Return the instructions of ``code``, at address 0."""
    insns = decode_all(np.frombuffer(code, np.uint8), 0)
    return tuple(insns.at(row) for row in range(len(insns)))


def _at(insn: Insn, start: int) -> Insn:
    return Insn(start + insn.address, insn.size, insn.kind, insn.target, insn.code)
