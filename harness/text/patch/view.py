"""View: a program as it runs on one machine, its text patched.

Only what lies in sites differs from the linked program. What the image cannot tell is
counted: the target of a call that is made direct through a pointer which the running
kernel has changed by then. It is written as the image has it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

from harness.elf.alternative import Alternatives, AltFlag
from harness.elf.paravirt import parse_parainstructions
from harness.elf.program import Program, Section
from harness.text.decode import decode_all
from harness.text.insn import I64, U64, Insn, InsnKind, Insns, join
from harness.text.patch.choice import Machine, chosen
from harness.text.patch.era import nop_tables
from harness.text.patch.kind import Era, NopTable
from harness.text.patch.nops import nops, text
from harness.text.patch.paravirt import Paravirt, read_operations, read_paravirt
from harness.text.patch.pointer import Pointers
from harness.text.patch.streams import ORIGINAL, Streams
from harness.variant import Platform

_CALL = 5
_GUARD = 16


class View(Struct, frozen=True):
    """A patched program.

    Attributes:
        program: the same sections, with other bytes in its sites.
        machine: what it runs on.
        start: u64[n], the sites that were looked at, ascending.
        end: u64[n], of each.
        sites: how many have other bytes than the linked program.
        changed: how many bytes that are.
        guessed: direct calls whose target only the running kernel knows for sure.
    """

    program: Program
    machine: Machine
    start: U64
    end: U64
    sites: int
    changed: int
    guessed: int


class Patcher(Struct, frozen=True):
    """What a program's texts are made of, on any machine.

    ``table`` are the NOPs of the CPU's vendor, for kernels up to 5.12.
    """

    program: Program
    alternatives: Alternatives | None
    streams: Streams | None
    paravirt: Paravirt | None
    table: NopTable = NopTable.P6

    def view(self, machine: Machine) -> View:
        """Return the program as it runs on ``machine``."""
        pointers = Pointers(self.program, machine.platform)
        texts: dict[int, bytes] = {}
        # 5.13 and later patch paravirt first; before that no site is both.
        texts.update(self.paravirt_texts(machine, pointers))
        texts.update(self.alternative_texts(machine, pointers, texts))
        start = np.array(sorted(texts), np.uint64)
        size = np.array([len(texts[at]) for at in start.tolist()], np.uint64)
        program, sites, changed = _rewritten(self.program, texts)
        end = start + size
        guessed = pointers.guessed
        return View(program, machine, start, end, sites, changed, guessed)

    def stream_rows(self, machine: Machine) -> I64:
        """Return i64[m], the stream that each alternative site gets."""
        assert self.alternatives is not None
        assert self.streams is not None
        alternatives, streams = self.alternatives, self.streams
        entry = chosen(alternatives, machine)
        sites = np.arange(len(entry))
        first = np.searchsorted(streams.site, sites).astype(np.int64)
        offset = entry - alternatives.site_first + 1
        return first + np.where(entry == ORIGINAL, 0, offset)

    def alternative_texts(
        self, machine: Machine, pointers: Pointers, before: Collection[int]
    ) -> Iterator[tuple[int, bytes]]:
        """Yield where each site is and what it gets.

        One that gets its original and is in ``before`` is left as it is.
        """
        if self.alternatives is None or self.streams is None:
            return
        rows = self.stream_rows(machine).tolist()
        direct = (self.alternatives.flags & AltFlag.DIRECT_CALL) != 0
        entries = self.streams.entry[rows].tolist()
        addresses = self.alternatives.site_address.tolist()
        whole = self.streams.whole[rows].tolist()
        for at, row, entry, good in zip(addresses, rows, entries, whole, strict=True):
            if not good or (entry == ORIGINAL and at in before):
                continue
            if entry != ORIGINAL and direct[entry]:
                yield at, self._direct(row, pointers)
            else:
                yield at, self.streams.text(row, self.table)

    def _direct(self, row: int, pointers: Pointers) -> bytes:
        """Return a site's text with ALT_FLAG_DIRECT_CALL (alt_replace_call())."""
        assert self.streams is not None
        insns = self.streams.written(row)
        at, end = insns[0].address, insns[-1].end
        # call *disp(%rip), as linked
        code = self.program.read(at, end - at).tobytes()
        slot = at + end - at + int.from_bytes(code[2:6], "little", signed=True)
        target = pointers.target(slot)
        if pointers.does_nothing(target):
            return text(list(nops(at, end, self.streams.era)))
        relative = (target - (at + _CALL)) & 0xFFFFFFFF if target else 0
        call = Insn(
            at, _CALL, InsnKind.CALL, 0, b"\xe8" + relative.to_bytes(4, "little")
        )
        return text([call, *insns[1:]])

    def paravirt_texts(
        self, machine: Machine, pointers: Pointers
    ) -> Iterator[tuple[int, bytes]]:
        """Yield where each site of .parainstructions is and what it gets."""
        sites = self.paravirt
        if sites is None:
            return
        xen = machine.platform is Platform.XEN
        vsmp = machine.platform is Platform.VSMP
        for number, at in enumerate(sites.address.tolist()):
            operation = sites.operations[int(sites.operation[number])]
            hooked = xen or (vsmp and operation.vsmp_calls)
            null = pointers.is_null(operation.slot)
            hooked |= null or pointers.changed(operation.slot, operation.function)
            if hooked and int(sites.length[number]) >= _CALL:
                target = pointers.target(operation.slot)
                if pointers.does_nothing(target):
                    end = at + int(sites.length[number])
                    insns = list(nops(at, end, sites.era, self.table))
                elif null and not target:
                    insns = sites.trap(number, self.table)
                else:
                    insns = sites.direct(number, target, self.table)
            else:
                insns = sites.native(number, self.table)
            if insns:
                yield at, text(insns)


def patcher_of(
    program: Program,
    alternatives: Alternatives | None,
    streams: Streams | None,
    kernel: Program | None = None,
    table: NopTable = NopTable.P6,
) -> Patcher:
    """Return the patcher of ``program``; a module's pointers lie in its ``kernel``."""
    found = parse_parainstructions(program)
    era = Era.E2 if streams is None else streams.era
    operations = read_operations(kernel) if kernel and program.relocatable else ()
    paravirt = None if found is None else read_paravirt(program, found, era, operations)
    if table not in nop_tables(kernel or program, era):
        table = NopTable.P6
    return Patcher(program, alternatives, streams, paravirt, table)


def _rewritten(program: Program, texts: dict[int, bytes]) -> tuple[Program, int, int]:
    """Write ``texts`` over the program's code; count sites and bytes that differ."""
    sections: list[Section] = []
    addresses = np.array(sorted(texts), np.uint64)
    sites = changed = 0
    for section in program.sections:
        first, last = np.searchsorted(
            addresses, np.array([section.address, section.end], np.uint64)
        ).tolist()
        if not section.executable or first == last or not section.data.size:
            sections.append(section)
            continue
        data = section.data.copy()
        for at in addresses[first:last].tolist():
            code = np.frombuffer(texts[at], np.uint8)
            place = slice(at - section.address, at - section.address + len(code))
            different = int((data[place] != code).sum())
            sites += different > 0
            changed += different
            data[place] = code
        sections.append(replace(section, data=data))
    return replace(program, sections=tuple(sections)), sites, changed


def spliced(insns: Insns, view: View) -> Insns:
    """Return the instructions of a view: those of ``insns``, new ones in its sites.

    ``insns`` are those of the linked program. Nothing else is decoded again.
    """
    if not len(view.start):
        return insns
    fresh = _decoded(view)
    at = np.searchsorted(view.start, insns.address, side="right").astype(np.int64) - 1
    outside = (at < 0) | (insns.address >= view.end[np.maximum(at, 0)])
    old = insns.take(np.flatnonzero(outside))
    order = np.argsort(np.concatenate([old.address, fresh.address]), kind="stable")
    return join([old, fresh]).take(order)


def _decoded(view: View) -> Insns:
    """Decode the sites of a view, each by itself."""
    size = (view.end - view.start).astype(np.int64)
    width = int(size.max(initial=0)) + _GUARD
    cells = np.full((len(size), width), 0x90, np.uint8)
    column = np.arange(width)
    for section in view.program.executable:
        first, last = np.searchsorted(
            view.start, np.array([section.address, section.end], np.uint64)
        ).tolist()
        rows: npt.NDArray[np.int64] = np.arange(first, last)
        offset = (view.start[rows] - np.uint64(section.address)).astype(np.int64)
        place = np.minimum(offset[:, None] + column, len(section.data) - 1)
        wanted = column < size[rows, None]
        cells[rows] = np.where(wanted, section.data[place], np.uint8(0x90))
    starts = np.arange(len(cells), dtype=np.uint64) * np.uint64(width)
    insns = decode_all(cells.reshape(-1), 0, starts)
    owner, within = np.divmod(insns.address.astype(np.int64), width)
    keep = np.flatnonzero(within < size[owner])
    insns, owner, within = insns.take(keep), owner[keep], within[keep]
    address = view.start[owner] + within.astype(np.uint64)
    moved = address - insns.address
    target = np.where(insns.target != 0, insns.target + moved, np.uint64(0))
    return replace(insns, address=address, target=target)
