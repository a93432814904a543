"""Patch: the model of how a kernel patches its own text.

One model, used twice: ``verify`` proves the ORC table right on the texts that it
predicts, and reading back a running kernel shows that those are its texts.

Of the kind that :mod:`~harness.text.patch.era` tells the object's kernel to be,
:mod:`~harness.text.patch.streams` makes the texts of alternatives,
:mod:`~harness.text.patch.nops` their padding, :mod:`~harness.text.patch.paravirt` those
of the sites of .parainstructions, and :mod:`~harness.text.patch.view` the whole program
on one platform. Return thunks, retpolines, static calls and jump labels stay as linked
there: a platform does not decide on them, a machine does. What one has
:mod:`~harness.text.patch.said` makes :mod:`~harness.text.patch.predict` tell each byte.
"""

from harness.text.patch.era import nop_tables, sniff_era
from harness.text.patch.kind import Era, NopTable
from harness.text.patch.nops import NOPS, merge_nops, text
from harness.text.patch.streams import ORIGINAL, Streams, build_streams

__all__ = [
    "NOPS",
    "ORIGINAL",
    "Era",
    "NopTable",
    "Streams",
    "build_streams",
    "merge_nops",
    "nop_tables",
    "sniff_era",
    "text",
]
