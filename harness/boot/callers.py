"""Callers: which call returns to an address, and which functions it can end up in.

Read off the code as linked together with every alternative's text, because a call
that patching wrote returns to where the linked text may have no instruction at all.
A callee can differ from the call's target: tail jumps lead on, and behind an
indirect one nothing is known.
"""

from __future__ import annotations

import enum

import numpy as np
import numpy.typing as npt
from msgspec import Struct, field

from harness.elf.alternative import parse_alternatives
from harness.elf.paravirt import parse_parainstructions
from harness.elf.program import Program
from harness.elf.sites import SiteTable, parse_sites
from harness.text.decode import decode_program
from harness.text.insn import InsnKind, Insns, join
from harness.text.patch import build_streams

U64 = npt.NDArray[np.uint64]
_LOOK_AT = 200  # functions, before a chain of tail jumps counts as open
_CALLS = (InsnKind.CALL, InsnKind.CALL_INDIRECT)
_DIRECT_JUMPS = (InsnKind.JMP, InsnKind.JCC)
_DIRECT_CALL = 5  # bytes
_RETPOLINE_CALL = 5  # bytes of ``call __x86_indirect_thunk_*``, patched in place


class Leads(enum.Enum):
    """Whether a call can have led to a function."""

    THERE = "there"
    ELSEWHERE = "elsewhere"
    ANYWHERE = "anywhere"  # through a pointer


class Callers(Struct, frozen=True):
    """The calls and jumps of a kernel, as columns sorted by address.

    Attributes:
        call_end: u64[c], sorted: where each call returns to.
        call_target: u64[c], 0 for an indirect call.
        jump: u64[j], sorted: where each jump is.
        jump_target: u64[j], 0 for an indirect jump.
        functions: u64[f], sorted: where functions and other sized code begins.
        retpolines: u64[r], sorted: calls that are rewritten to indirect ones.
        trampolines: [first, last) of the static call trampolines.
    """

    call_end: U64
    call_target: U64
    jump: U64
    jump_target: U64
    functions: U64
    retpolines: U64
    trampolines: tuple[int, int]
    _reached: dict[int, tuple[frozenset[int], bool]] = field(default_factory=dict)

    def targets(self, address: int) -> tuple[int, ...]:
        """Return the targets of the calls that return to ``address`` (0: indirect).

        Empty: no call does.
        """
        first, last = np.searchsorted(
            self.call_end, np.array([address, address + 1], np.uint64)
        )
        found = self.call_target[first:last].tolist()
        wanted = np.uint64(address - 1)
        site = int(np.searchsorted(self.retpolines, wanted, "right")) - 1
        if site >= 0 and wanted < self.retpolines[site] + np.uint64(_RETPOLINE_CALL):
            found.append(0)
        return tuple(found)

    def function(self, address: int) -> int:
        """Return where the function begins that ``address`` is in."""
        at = int(np.searchsorted(self.functions, np.uint64(address), "right")) - 1
        return int(self.functions[at]) if at >= 0 else 0

    def leads(self, target: int, function: int) -> Leads:
        """Tell whether a call of ``target`` can be running ``function`` (its start)."""
        if not target:
            return Leads.ANYWHERE
        reached, is_open = self._reach(self.function(target))
        if function in reached:
            return Leads.THERE
        return Leads.ANYWHERE if is_open else Leads.ELSEWHERE

    def _reach(self, start: int) -> tuple[frozenset[int], bool]:
        if start not in self._reached:
            self._reached[start] = self._follow(start)
        return self._reached[start]

    def _follow(self, start: int) -> tuple[frozenset[int], bool]:
        # All functions that tail jumps lead to from ``start``.
        seen, pending = {start}, [start]
        while pending:
            function = pending.pop()
            if self.trampolines[0] <= function < self.trampolines[1]:
                return frozenset(seen), True
            for target in self._jumps_out(function):
                if not target or len(seen) > _LOOK_AT:
                    return frozenset(seen), True
                if target not in seen:
                    seen.add(target)
                    pending.append(target)
        return frozenset(seen), False

    def _jumps_out(self, function: int) -> set[int]:
        at = int(np.searchsorted(self.functions, np.uint64(function), "right"))
        end = int(self.functions[at]) if at < len(self.functions) else function + 1
        first, last = np.searchsorted(self.jump, np.array([function, end], np.uint64))
        targets = set(self.jump_target[first:last].tolist())
        return {
            self.function(target) if target else 0
            for target in targets
            if not function <= target < end
        }


def find_callers(program: Program) -> Callers:
    """Read the calls and jumps of a linked kernel."""
    parts = [decode_program(program)]
    if (alternatives := parse_alternatives(program)) is not None:
        parts.append(build_streams(program, alternatives).insns)
    insns = join(parts)
    call_end, call_target = _sorted(insns, _CALLS, insns.end)
    made = _made_direct(program)
    places = np.searchsorted(call_end, made)
    call_end = np.insert(call_end, places, made)
    call_target = np.insert(call_target, places, np.uint64(0))
    kinds = (*_DIRECT_JUMPS, InsnKind.JMP_INDIRECT)
    jump, jump_target = _sorted(insns, kinds, insns.address)
    symbols = program.symbols
    code = program.in_code(symbols.address) & (symbols.size > 0)
    sites = parse_sites(program, SiteTable.RETPOLINE_SITES)
    first = program.symbols.find("__static_call_text_start")
    last = program.symbols.find("__static_call_text_end")
    return Callers(
        call_end=call_end,
        call_target=call_target,
        jump=jump,
        jump_target=jump_target,
        functions=np.unique(symbols.address[code]),
        retpolines=np.zeros(0, np.uint64) if sites is None else np.sort(sites.address),
        trampolines=(first or 0, last or 0),
    )


def _made_direct(program: Program) -> U64:
    """Return where calls through pv_ops return to once apply_paravirt() made them direct.

    Those are shorter than what they replace; of the target nothing is known. Since 6.8
    they are alternatives.
    """
    calls = parse_parainstructions(program)
    if calls is None:
        return np.zeros(0, np.uint64)
    return np.sort(calls.address) + np.uint64(_DIRECT_CALL)


def _sorted(insns: Insns, kinds: tuple[InsnKind, ...], place: U64) -> tuple[U64, U64]:
    rows = np.flatnonzero(np.isin(insns.kind, kinds))
    rows = rows[np.argsort(place[rows], kind="stable")]
    return place[rows], insns.target[rows]
