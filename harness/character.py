"""Character: those that some document, terminal or database refuses, spelt out.

File names and consoles have bytes that are no characters (surrogates, in Python), zeros
and escapes. XML, UTF-8 and PostgreSQL each refuse some; a terminal obeys others.
"""

from __future__ import annotations

import re

_REFUSED = re.compile(
    "[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]"  # not \t, \n, \r
)


def spelt(text: str) -> str:
    r"""Return ``text`` with what is refused as Python spells it: ``\x1b``."""
    return _REFUSED.sub(lambda found: ascii(found[0])[1:-1], text)
