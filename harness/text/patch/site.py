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


def alternatives(program: Program, said: Said) -> Edits | None:
    """Return the text that each alternative site gets."""
    table = parse_alternatives(program)
    if table is None:
        return None
    patcher = patcher_of(program, table, build_streams(program, table))
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
