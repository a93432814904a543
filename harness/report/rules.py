"""Rules: what docs/findings.md says about each kind of finding."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from msgspec import Struct

from harness.data import FINDINGS as DOCS
from harness.errors import UserError

TOOLS = "What the build's own tools said"  # the section of objtool's and modpost's

_SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
_ACTION = "What to do: "
_SOURCE = "Source: "


class Rule(Struct, frozen=True):
    """One rule.

    Attributes:
        name: its id, such as ``alternative/ret-1``.
        texts: what is printed, one sentence for each case.
        meaning: paragraphs.
        action: what to do.
        source: where the kernel (or the format) says so; empty if nobody wrote it.
    """

    name: str
    texts: tuple[str, ...]
    meaning: tuple[str, ...]
    action: str
    source: str


def read_rules(text: str) -> dict[str, Rule]:
    """Return the rules that ``text``, docs/findings.md, has a section for."""
    rules = {}
    parts = _SECTION.split(text)
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        name = title.strip("`")
        rules[name] = _rule(name, body)
    return rules


def find_rule(key: str, path: Path = DOCS) -> Rule:
    """Return the rule of a finding's key, or of a rule's own name.

    Raises:
        UserError: there is no such rule, or the documentation is not at hand.
    """
    try:
        rules = read_rules(path.read_text())
    except OSError as exc:
        raise UserError(
            f"cannot read {path}: {exc.strerror}",
            hint="install orc-harness from its tree: it reads docs/ and configs/ there",
        ) from exc
    name = key.partition(":")[0]
    if name.startswith(("objtool/", "modpost/")):
        return rules[TOOLS]
    if name not in rules:
        known = sorted(known for known in rules if "/" in known)
        meant = difflib.get_close_matches(name, known) or known
        raise UserError(
            f"there is no rule {name}", hint=f"there are {', '.join(meant)}"
        )
    return rules[name]


def _rule(name: str, body: str) -> Rule:
    paragraphs = [" ".join(p.split()) for p in re.split(r"\n\s*\n", body.strip())]
    texts = tuple(p.removeprefix("> ") for p in paragraphs if p.startswith("> "))
    rest = [p for p in paragraphs if not p.startswith("> ")]
    source = next((p for p in rest if p.startswith(_SOURCE)), "")
    meaning, action = [], ""
    for paragraph in rest:
        if paragraph == source:
            continue
        before, found, after = paragraph.partition(_ACTION)
        action = after if found else action
        if before:
            meaning.append(before.strip())
    return Rule(name, texts, tuple(meaning), action, source.removeprefix(_SOURCE))
