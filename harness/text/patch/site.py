"""Site: what a running machine makes of its alternatives and paravirt calls.

The texts are :mod:`harness.text.patch.view`'s; here they are made by what the machine
says, of the text that retpolines and returns have left.
"""

from __future__ import annotations

from harness.elf.alternative import Alternatives, AltFlag, parse_alternatives
from harness.elf.program import Program
from harness.text.patch.choice import chosen
from harness.text.patch.edits import Edits, Step, edits_of
from harness.text.patch.pointer import running_pointers
from harness.text.patch.said import Said
from harness.text.patch.streams import ORIGINAL, build_streams
from harness.text.patch.view import patcher_of

_ORIGINAL = "original"
_CALL, _INLINE = "direct call", "inline"


def paravirt_calls(program: Program, said: Said) -> Edits | None:
    """Return the text that each site of .parainstructions gets (up to 6.7).

    Where a pointer is the one that was linked it is what a native kernel writes, which
    may be the operation itself; else a call of what the machine has there.
    """
    table = parse_alternatives(program)
    streams = None if table is None else build_streams(program, table)
    patcher = patcher_of(program, table, streams, table=said.nops)
    if patcher.paravirt is None:
        return None
    pointers = running_pointers(said.image)
    texts = list(patcher.paravirt_texts(said.machine, pointers))
    calls = (b"\xe8", b"\xe9")
    return edits_of(
        Step.PARAVIRT,
        [(at, code, _CALL if code[:1] in calls else _INLINE) for at, code in texts],
    )


def alternatives(program: Program, said: Said) -> Edits | None:
    """Return the text that each alternative site gets."""
    table = parse_alternatives(program)
    if table is None:
        return None
    streams = build_streams(program, table)
    patcher = patcher_of(program, table, streams, table=said.nops)
    names = dict(zip(table.site_address.tolist(), _won(table, said), strict=True))
    pointers = running_pointers(said.image)
    texts = patcher.alternative_texts(said.machine, pointers, before=())
    return edits_of(Step.ALTERNATIVE, [(at, code, names[at]) for at, code in texts])


def _won(table: Alternatives, said: Said) -> list[str]:
    """Return for each site what the entry asks for whose text stays."""
    result = []
    for entry in chosen(table, said.machine).tolist():
        if entry == ORIGINAL:
            result.append(_ORIGINAL)
            continue
        flags = int(table.flags[entry])
        name = said.names.name(int(table.cpuid[entry]))
        name = f"!{name}" if flags & AltFlag.NOT else name
        direct = " direct call" if flags & AltFlag.DIRECT_CALL else ""
        result.append(name + direct)
    return result
