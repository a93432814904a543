"""Victim: an object with one thing wrong."""

from __future__ import annotations

from tests.builders.elfwriter import (
    ALLOC,
    EXEC,
    UND,
    Alternative,
    ElfWriter,
    add_alternatives,
    add_orc,
    call,
)
from tests.builders.site import ALWAYS

PUSHFQ, NOP = b"\x9c", b"\x90"


def victim_object(replacement: bytes = PUSHFQ) -> bytes:
    """Return an object whose ``replacement`` leaves a word on the stack, or not."""
    writer = ElfWriter()
    text = writer.section(".text", bytes.fromhex("90c3"), flags=ALLOC | EXEC)
    writer.symbol("victim", text, 0, 2)
    add_orc(writer, text, [(0, call(8)), (2, UND)])
    add_alternatives(writer, text, replacement, [Alternative(0, 0, ALWAYS, 1, 1)])
    return writer.build()
