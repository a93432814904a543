"""The documentation of each rule is read for people who ask."""

from __future__ import annotations

import pytest

from harness.data import FINDINGS as DOCS
from harness.errors import UserError
from harness.report.rules import TOOLS, find_rule, read_rules

TEXT = """# Findings

Words.

## `a/b`

> one text

> another text

What it
means.

More. What to do: mend
it.

Source: kernel/fork.c fork()

## `a/c`

> a text

What to do: nothing.
"""


def test_a_section_is_a_rule() -> None:
    """Texts, meaning, action and source are told apart."""
    rule = read_rules(TEXT)["a/b"]

    assert rule.texts == ("one text", "another text")
    assert rule.meaning == ("What it means.", "More.")
    assert rule.action == "mend it."
    assert rule.source == "kernel/fork.c fork()"


def test_a_key_finds_its_rule() -> None:
    """The cause or place behind the colon does not matter."""
    assert find_rule("alternative/ret-1:text abc").name == "alternative/ret-1"
    assert find_rule("objtool/naked-return:x").name == TOOLS


def test_an_unknown_rule_lists_those_that_there_are() -> None:
    """The hint has the names."""
    with pytest.raises(UserError, match="no rule nope/x") as caught:
        find_rule("nope/x:y")
    assert "alternative/state" in str(caught.value.hint)


def test_every_rule_tells_what_to_do_and_where_it_is_from() -> None:
    """Its text, its meaning, what to do, and the source of the rule."""
    rules = [r for r in read_rules(DOCS.read_text()).values() if "/" in r.name]
    for rule in rules:
        assert rule.texts, rule.name
        assert rule.meaning, rule.name
        assert rule.action, rule.name
        seen = rule.name.startswith(("runtime/", "boot/"))  # its source is the guest
        assert rule.source or seen, rule.name
    assert len(rules) > 30
