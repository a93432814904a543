"""Traces: a kernel's own call traces, checked against its static table and its code.

For a guest that a debugger hardly reaches (KVM inside a guest): what it printed of
itself, in /proc/*/stack and on its console, must be what a right table gives. Every return
address lies behind a call, the table has a state for that call, each call can have led
to the function above it, and the trace ends where the table says that the stack does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from msgspec import Struct, field
from msgspec.structs import replace

from harness.boot.backtrace import Backtrace, Entry, parse_console, parse_stack
from harness.boot.callers import Callers, Leads, find_callers
from harness.boot.compare import CompareResult
from harness.boot.kernel_text import KernelText, kernel_text
from harness.elf.orc import OrcType, describe, parse_orc
from harness.elf.program import Program
from harness.errors import FormatError
from harness.finding import Finding, Location, group_by_cause

RULE = "runtime/trace-wrong"
PROC_PREFIX = "stack/"
_COUNTS = ("proc_traces", "console_traces", "entries", "calls_direct", "calls_indirect")
_REGS = (OrcType.REGS, OrcType.REGS_PARTIAL)
_EVIDENCE_LINES = 22
WAYS = 3  # to spoil a trace


class Fault(Struct, frozen=True):
    """What is wrong with entry ``at`` of a trace.

    ``address`` is what the unwinder looked up there, None if the image has no such
    place.
    """

    at: int
    address: int | None
    message: str


class Judge(Struct, frozen=True):
    """All that a trace is judged by; ``counts`` is how much was."""

    program: Program
    text: KernelText
    callers: Callers
    counts: Counter[str] = field(default_factory=Counter)


def check_traces(texts: Mapping[str, str], program: Program) -> CompareResult:
    """Check every trace in ``texts``: name -> text, as a guest's evidence has them.

    Names that begin with ``stack/`` are contents of /proc/PID/stack, all others are
    console text. The result's reason says so if there was nothing to check, or if the
    control (spoilt copies of good traces) went unseen.

    Raises:
        FormatError: ``program`` carries no ORC table, or no symbols.
    """
    table = parse_orc(program)
    if table is None:
        raise FormatError(f"{program.name} carries no ORC table to compare with")
    judge = Judge(program, kernel_text(program, table), find_callers(program))
    counts = judge.counts
    counts.update(dict.fromkeys(_COUNTS, 0))
    findings, good = [], []
    for trace in parse_all(texts):
        fault = check_trace(trace, judge)
        if fault is not None:
            findings.append(_finding(trace, fault, judge))
        elif len(trace.entries) > 2 and not trace.cut:
            good.append(trace)
    reason = _missing(counts) or _control(good, judge)
    return CompareResult(
        counts=dict(counts),
        findings=tuple(group_by_cause(findings)),
        notes=(),
        reason=reason,
    )


def parse_all(texts: Mapping[str, str]) -> Iterable[Backtrace]:
    """Yield all traces in ``texts`` that have entries."""
    for name, text in texts.items():
        if name.startswith(PROC_PREFIX):
            found = [parse_stack(text, name)]
        else:
            found = parse_console(text, name)
        yield from (trace for trace in found if trace.entries)


def check_trace(trace: Backtrace, judge: Judge) -> Fault | None:
    """Return the first fault of ``trace``, or None."""
    counts = judge.counts
    kind = "proc" if trace.source.startswith(PROC_PREFIX) else "console"
    counts[f"{kind}_traces"] += 1
    # what the entry above may be: of namesakes any
    aboves: list[_Above | None] = [None]
    for at, entry in enumerate(trace.entries):
        if entry.module:  # the table for it is in the module
            counts["entries_in_modules"] += 1
            aboves = [None]
            continue
        counts["entries"] += 1
        places = find_entry(entry, judge.program)
        if not places:
            return Fault(at, None, "the image has no such symbol")
        tries = [
            _check_entry(at, place, _is_exact(entry, above), above, judge)
            for place in places
            for above in aboves
        ]
        aboves = [*dict.fromkeys(each for each in tries if isinstance(each, _Above))]
        if not aboves:
            return next(each for each in tries if isinstance(each, Fault))
    ends = [_end_fault(trace, last) for last in aboves if last and not trace.cut]
    return ends[0] if ends and all(ends) else None


def _is_exact(entry: Entry, above: _Above | None) -> bool:
    """Whether it is looked up as it is: a return address is behind its call."""
    signal = above is not None and above.signal
    return entry.interrupted or not entry.offset or signal


class _Above(Struct, frozen=True):
    # An entry that passed: what was looked up for it, and what the table says there.
    looked_up: int
    kind: OrcType
    signal: bool


def find_entry(entry: Entry, program: Program) -> list[int]:
    """Return the addresses that ``entry`` can mean: namesakes share a name.

    The size tells them apart; it is kallsyms' (to the next symbol), so it is used only
    if it fits one of them.
    """
    symbols = program.symbols
    starts = set(symbols.address[symbols.names == entry.symbol].tolist())
    fitting = [start for start in starts if _size(start, program) == entry.size]
    return [start + entry.offset for start in sorted(fitting or starts)]


def _size(start: int, program: Program) -> int:
    address = program.symbols.address
    following = address[address > start]
    return int(following[0]) - start if len(following) else 0


def _check_entry(
    at: int, place: int, exact: bool, above: _Above | None, judge: Judge
) -> _Above | Fault:
    looked_up = place if exact else place - 1
    index = judge.text.find(looked_up)
    if index is None:
        return Fault(at, looked_up, "it is not in the kernel's text")
    state = judge.text.entry(index)
    if state.type == OrcType.UNDEFINED:
        return Fault(at, looked_up, "the table has no state for it")
    passed = _Above(looked_up, OrcType(state.type), state.signal)
    if above is not None and above.kind is OrcType.END_OF_STACK:
        return Fault(at, looked_up, "the stack had ended above it")
    if above is not None and above.kind in _REGS:
        return passed  # it was interrupted: it called nothing
    if not exact:
        return _check_call(at, place, above, judge) or passed
    if above is not None and judge.callers.function(place) != place:
        return Fault(at, looked_up, "registers, where the table has none")
    return passed


def _check_call(
    at: int, place: int, above: _Above | None, judge: Judge
) -> Fault | None:
    targets = judge.callers.targets(place)
    if not targets:
        return Fault(at, place - 1, "no call returns there")
    if above is None:
        return None
    function = judge.callers.function(above.looked_up)
    leads = [judge.callers.leads(target, function) for target in targets]
    judge.counts["calls_indirect" if 0 in targets else "calls_direct"] += 1
    if all(lead is Leads.ELSEWHERE for lead in leads):
        return Fault(at, place - 1, "its call does not lead to the function above it")
    return None


def _end_fault(trace: Backtrace, last: _Above) -> Fault | None:
    if last.kind in _REGS:
        return None
    at = len(trace.entries) - 1
    if trace.user:
        return Fault(
            at, last.looked_up, "user mode follows, but no registers are there"
        )
    if last.kind is OrcType.END_OF_STACK:
        return None
    return Fault(at, last.looked_up, "the trace stops early: this frame was called")


def _missing(counts: Counter[str]) -> str:
    for kind in ("proc", "console"):
        if not counts[f"{kind}_traces"]:
            return f"there was no {kind} trace to check"
    return "" if counts["calls_direct"] else "no trace had a direct call to check"


def _control(good: list[Backtrace], judge: Judge) -> str:
    # Spoils a good trace in each way that a wrong table could: the longest that has all.
    if not good:
        return "control could not run: there is no good trace"
    counts, blind = judge.counts, replace(judge, counts=Counter())
    unseen: list[str] = []
    chosen: list[tuple[str, Backtrace]] = []
    for trace in sorted(good, key=lambda trace: -len(trace.entries)):
        chosen = max(chosen, list(spoil(trace, judge)), key=len)
        if len(chosen) == WAYS:
            break
    for name, spoilt in chosen:
        counts["controls"] += 1
        if check_trace(spoilt, blind) is None:
            unseen.append(name)
        else:
            counts["controls_reported"] += 1
    if unseen:
        return f"control did not fail: {', '.join(unseen)} went unseen"
    if len(chosen) < WAYS:
        made = ", ".join(name for name, _ in chosen) or "nothing"
        return f"control could not run: no good trace allows more than {made}"
    return ""


def spoil(trace: Backtrace, judge: Judge) -> Iterable[tuple[str, Backtrace]]:
    """Yield copies of ``trace`` with one fault each, and what it is.

    What stands behind registers was interrupted, not called, and what is behind a
    module's entry is not judged by it: either may be anything, so no fault is made there.
    """
    entries = trace.entries
    called = [
        at
        for at in range(1, len(entries))
        if not entries[at - 1].module and not _has_registers(entries[at - 1], judge)
    ]
    for at in called[-1:]:
        early = replace(trace, entries=entries[:at], user=False)
        yield "a trace that stops early", early
    for at in called:
        if _is_right_only_there(entries[at], judge):
            shifted = replace(entries[at], offset=entries[at].offset + 1)
            spoilt = (*entries[:at], shifted, *entries[at + 1 :])
            yield "a shifted entry", replace(trace, entries=spoilt)
            break
    for at in called:
        if (
            at + 1 < len(entries)
            and _is_called_directly(entries[at + 1], judge)
            and not _is_recursive(entries[at - 1 : at + 1])
        ):
            dropped = replace(trace, entries=(*entries[:at], *entries[at + 1 :]))
            yield f"a trace without {entries[at]}", dropped
            return


def _has_registers(entry: Entry, judge: Judge) -> bool:
    """Whether the table may say so of it, be it a return address or not."""
    places = find_entry(entry, judge.program)
    found = [judge.text.find(at) for place in places for at in (place, place - 1)]
    return any(at is not None and judge.text.entry(at).type in _REGS for at in found)


def _is_right_only_there(entry: Entry, judge: Judge) -> bool:
    if entry.interrupted or entry.module or not entry.offset:
        return False
    places = find_entry(entry, judge.program)
    targets = judge.callers.targets
    # a call through a thunk may be patched to return at any of several places
    return all(targets(place) and not targets(place + 1) for place in places)


def _is_called_directly(entry: Entry, judge: Judge) -> bool:
    # By exactly one known function that jumps nowhere else.
    places = find_entry(entry, judge.program)
    if len(places) != 1 or entry.interrupted:
        return False
    targets = judge.callers.targets(places[0])
    functions = [judge.callers.function(target) for target in targets if target]
    return len(functions) == 1 == len(targets) and (
        judge.callers.leads(targets[0], 0) is Leads.ELSEWHERE
    )


def _is_recursive(pair: tuple[Entry, ...]) -> bool:
    return pair[0].symbol == pair[1].symbol


def _finding(trace: Backtrace, fault: Fault, judge: Judge) -> Finding:
    entry = trace.entries[fault.at]
    first = max(0, min(fault.at - 8, len(trace.entries) - _EVIDENCE_LINES))
    window = [f"{trace.source}:"]
    for at, each in enumerate(trace.entries[first : first + _EVIDENCE_LINES], first):
        window.append(f"{'>' if at == fault.at else ' '}{at:>3} {each}"[:100])
    location = Location(judge.program.name, entry.symbol, entry.offset)
    declared = ""
    if fault.address is not None:
        location = judge.program.location(fault.address)
        index = judge.text.find(fault.address)
        declared = "" if index is None else describe(judge.text.state[index])
    return Finding(
        rule=RULE,
        location=location,
        message=f"{entry} in a call trace: {fault.message}",
        declared=declared,
        cause=f"{location.symbol}: {fault.message}",
        window=tuple(window),
    )
