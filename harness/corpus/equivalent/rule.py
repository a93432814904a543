"""Rule: the proofs by name, each with its reason."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from harness.corpus.equivalent import code, site, table
from harness.corpus.equivalent.clean import Clean
from harness.corpus.mutant import Change, Kind


class Rule(Struct, frozen=True):
    """One proof.

    Attributes:
        name: what a mutant that it proves is reported with.
        reason: why such a mutant is no defect.
        kinds: the kinds of mutants that it is a proof for.
        holds: whether it holds for the clean columns and the change.
    """

    name: str
    reason: str
    kinds: tuple[Kind, ...]
    holds: Callable[[Clean, Change], bool]


def proof(clean: Clean, change: Change, kind: Kind) -> str:
    """Return the name of the rule that proves ``change`` equivalent, or empty."""
    for rule in RULES:
        if kind in rule.kinds and rule.holds(clean, change):
            return rule.name
    return ""


_ANY = tuple(Kind)
RULES = (
    Rule(
        "same-answers",
        "at every address that the unwinder can ask for both tables say the same",
        _ANY,
        table.same_answers,
    ),
    Rule(
        "unreachable",
        "the tables differ only where no control comes",
        _ANY,
        table.unreachable,
    ),
    Rule(
        "permitted",
        "the instructions that lead there permit the other state as well",
        _ANY,
        table.is_permitted,
    ),
    Rule(
        "bp-kept",
        "the caller's %rbp is saved, and in its register as well",
        _ANY,
        table.bp_kept,
    ),
    Rule(
        "unclaimed",
        "the table says nothing about the changed code, so it says nothing wrong",
        (Kind.STATE,),
        code.unclaimed,
    ),
    Rule(
        "same-effect",
        "the new instructions do to the stack what the old ones did",
        (Kind.STATE,),
        code.same_effect,
    ),
    Rule(
        "other-base",
        "the frame is not counted from %rsp, and %rsp ends where it did",
        (Kind.STATE,),
        code.other_base,
    ),
    Rule(
        "recomputed",
        "%rsp is computed anew from %rbp before anything depends on it",
        (Kind.STATE,),
        code.recomputed,
    ),
    Rule(
        "never-executed",
        "it lies behind a jump of the original, and nothing leads there",
        (Kind.STATE,),
        code.never_executed,
    ),
    Rule(
        "declared",
        "the table says of each new instruction what is true of it",
        (Kind.STATE,),
        code.declared,
    ),
    Rule(
        "empty-replacement",
        "a replacement of no bytes may lie anywhere",
        _ANY,
        site.empty_replacement,
    ),
    Rule(
        "same-texts",
        "all texts of the site are equal: its condition does not matter",
        _ANY,
        site.same_texts,
    ),
    Rule(
        "never-chosen",
        "no machine runs the replacement that changed: what it asks for there is none",
        (Kind.STATE,),
        site.never_chosen,
    ),
    Rule(
        "same-stack",
        "no text of the site touches the stack: the table stays right",
        (Kind.STATE,),
        site.same_stack,
    ),
)
