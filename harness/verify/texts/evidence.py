"""Evidence: a defect of a patched site, as the finding that people read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from msgspec import Struct

from harness.elf.orc import describe, unpack
from harness.elf.program import Program
from harness.finding import Finding, Lines
from harness.text.insn import Insn
from harness.text.operand import parse_encoding
from harness.verify.texts.judge import Defect, Rule
from harness.verify.texts.walk import Site, Walk
from harness.verify.transfer import is_defined
from harness.verify.window import Column, draw


class Text(Struct, frozen=True):
    """One text of a site, walked.

    Attributes:
        label: what people call it: ``replacement 1 of 2 (not XENPV)``.
        platforms: where it runs.
        walk: the states that executing it goes through.
    """

    label: str
    platforms: tuple[str, ...]
    walk: Walk


def finding_of(
    program: Program,
    site: Site,
    texts: Sequence[Text],
    defect: Defect,
    cause: str = "",
) -> Finding:
    """Return ``defect`` of the site that has ``texts``, with its window.

    ``cause`` names the mechanism where it is known; else it is the odd callee, or a
    hash of the texts and of the disagreement.
    """
    fits_none = defect.rule is Rule.ENTRY
    bad = texts[defect.stream]
    columns = [
        Column(_short(texts[n].label), texts[n].walk.insns)
        for n in _shown(defect, len(texts))
    ]
    declared = "" if defect.declared is None else describe(defect.declared)
    actual = "" if defect.actual is None else describe(defect.actual)
    verdict = [f"at +{defect.offset:#x}: {defect.message}"]
    if declared != actual:
        side = "expected there" if defect.rule is Rule.EXIT else "table"
        verdict.append(f"{side}: {declared}    true in {_short(bad.label)}: {actual}")
    if defect.other >= 0 and defect.offset in texts[defect.other].walk.state:
        other = texts[defect.other]
        state = describe(other.walk.state[defect.offset])
        verdict.append(f"true in {_short(other.label)}: {state}")
    platforms = {name for t in (texts if fits_none else [bad]) for name in t.platforms}
    return Finding(
        rule=defect.rule.value,
        location=program.location(site.address + defect.offset),
        message=defect.message,
        declared=declared,
        actual=actual,
        variant="" if fits_none else bad.label,
        platforms=tuple(sorted(platforms)),
        cause=cause or _cause(program, texts, defect),
        window=Lines(
            lambda: draw(program, columns, site.table, defect.offset, verdict)
        ),
    )


def _shown(defect: Defect, count: int) -> list[int]:
    """The streams of the window: the bad one and two others at most."""
    wanted = [defect.stream, defect.other, 0, *range(1, count)]
    return sorted(list(dict.fromkeys(n for n in wanted if n >= 0))[:3])


def _short(label: str) -> str:
    head, _, condition = label.partition(" (")
    return f"{head.split(' of ')[0]} {condition.rstrip(')')}".strip()


def _cause(program: Program, texts: Sequence[Text], defect: Defect) -> str:
    """Name the mechanism: the odd callee, else a hash of texts and disagreement.

    An odd callee is odd to all who call it in one state; another state is another
    bug. The hash leaves out what differs from place to place: frame size, addresses.
    """
    callee = program.location(defect.callee) if defect.callee else None
    if callee is not None and not callee.offset and defect.declared is not None:
        return f"callee {callee.symbol} under {describe(defect.declared)}"
    parts = [defect.rule.value, str(defect.offset), _difference(defect)]
    if defect.rule is not Rule.EXIT:  # texts may leave wrongly for one reason
        parts.append(str(defect.stream))
    for each in texts:
        codes = (_anonymous(insn) for _, insn in sorted(each.walk.insns.items()))
        parts.append(" ".join(codes))
    digest = hashlib.sha256("|".join(parts).encode()).hexdigest()
    return f"text {digest[:12]}"


def _difference(defect: Defect) -> str:
    if defect.declared is None or defect.actual is None:
        return ""
    declared, actual = unpack(defect.declared), unpack(defect.actual)
    if not (is_defined(defect.declared) and is_defined(defect.actual)):
        return f"{declared.type} {actual.type}"
    same_base = declared.sp_reg == actual.sp_reg and declared.type == actual.type
    if same_base:
        return f"sp {actual.sp_offset - declared.sp_offset:+d}"
    return f"{declared.type}/{declared.sp_reg} {actual.type}/{actual.sp_reg}"


def _anonymous(insn: Insn) -> str:
    """The instruction's bytes without its branch target or RIP-relative address."""
    if insn.target:
        return f"{insn.kind}:{insn.size}"
    encoding = parse_encoding(insn.code)
    has_address = encoding.mod == 0 and encoding.base == -1 and insn.size > 5
    return insn.code[:-4].hex() if has_address else insn.code.hex()
