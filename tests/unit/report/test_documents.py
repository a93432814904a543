"""Documents for other programs: statuses, places and keys get there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kcidb_io.schema import V5_3

from harness.errors import UserError
from harness.finding import Finding, Location
from harness.report.html import to_html
from harness.report.junit import to_junit
from harness.report.kcidb import to_kcidb
from harness.report.ktap import to_ktap
from harness.report.markdown import escape, to_markdown
from harness.report.sarif import FINGERPRINT, to_sarif
from harness.result import RunResult, Stage, Status, dump
from tests.builders.results import finding, run, stage

WHERE = Location("vmlinux", "foo", 0x1C, 0xFFFFFFFF8100001C, "mm/foo bar.c:42")
PLACED = Finding("text/ret-1", WHERE, "wrong", occurrences=3, window=("-> ret", "```"))
EVERY = run(
    stage(of=Stage.BUILD, counts={"compiled": 3}, seconds=60.0),
    stage(PLACED, known=(finding("k"),)),
    stage(of=Stage.BOOT, status=Status.MISS, reason="no # KVM"),
    stage(of=Stage.COMPARE, status=Status.ERROR, reason="lost", exit_code=3),
    stage(PLACED, variant="kvm #1"),
    stage(of=Stage.BOOT, variant="kvm #1", status=Status.SKIP, reason="no build"),
    run_id="one",
)
DOCUMENTS = (dump, to_junit, to_ktap, to_kcidb, to_sarif, to_markdown, to_html)


def test_ktap() -> None:
    """A plan that holds, directives for what has no verdict, names without any."""
    lines = to_ktap(EVERY).splitlines()

    assert [line for line in lines if not line.lstrip().startswith("# ")] == [
        "KTAP version 1",
        "1..2",
        "  KTAP version 1",
        "  1..4",
        "  ok 1 build",
        "  not ok 2 validate",
        "  ok 3 boot # SKIP MISS: no # KVM",
        "  not ok 4 compare # ERROR lost",
        "not ok 1 xen",
        "  KTAP version 1",
        "  1..2",
        "  not ok 1 validate",
        "  ok 2 boot # SKIP SKIP: no build",
        "not ok 2 kvm _1",
    ]
    assert "  # Subtest: kvm _1" in lines
    assert "  #   -> ret" in lines


def kcidb(result: RunResult) -> dict[str, Any]:
    return V5_3.validate(json.loads(to_kcidb(result)))


def test_kcidb() -> None:
    """Its own library takes it; what belongs together is linked."""
    found = kcidb(EVERY)

    status = {each["id"]: each["status"] for each in found["tests"]}
    assert status == {
        "orc_harness:one:xen:validate": "FAIL",
        "orc_harness:one:xen:boot": "MISS",
        "orc_harness:one:xen:compare": "ERROR",
        "orc_harness:one:kvm #1:validate": "FAIL",
        "orc_harness:one:kvm #1:boot": "SKIP",
    }
    xen, kvm = found["builds"]
    assert (xen["status"], xen["compiler"]) == ("PASS", "gcc 12.2")
    assert "status" not in kvm  # nobody built it here
    builds = {xen["id"], kvm["id"]}
    assert {each["build_id"] for each in found["tests"]} == builds
    issues = {each["id"] for each in found["issues"]}
    assert issues == {f"orc_harness:{f.key}" for f in (PLACED, finding("k"))}
    known = {
        each["test_id"] + "/" + each["issue_id"]: each["misc"]["known"]
        for each in found["incidents"]
    }
    assert list(known.values()) == [False, True, False]
    assert len({each["id"] for each in found["incidents"]}) == 3


@settings(deadline=None, max_examples=25)
@given(words=st.text(max_size=20), again=st.booleans())
@example(words="\0", again=True)
def test_kcidb_takes_whatever_people_call_things(words: str, again: bool) -> None:
    """Names with zeros and newlines, a variant that comes twice."""
    one = stage(finding(words, window=(words,)), variant=words, reason=words)
    found = kcidb(
        run(one, *[one] * again, tree=words, run_id=f"r{words}", tools={words: words})
    )

    ids = [each["id"] for each in found["tests"]]
    assert len(ids) == len(set(ids)) == 1 + again


def test_kcidb_has_builds_only() -> None:
    """What all variants have covered together is a test of none of them."""
    both = run(stage(variant="xen"), stage(of=Stage.COVERAGE, variant="all"))
    found = kcidb(both)
    assert [build["config_name"] for build in found["builds"]] == ["xen"]
    assert len(found["tests"]) == 1


def test_kcidb_origin() -> None:
    """It is checked before anybody sends it."""
    with pytest.raises(UserError, match="'My CI' is no origin"):
        to_kcidb(EVERY, "My CI")


def test_sarif() -> None:
    """File and line, symbol, fingerprint; known ones are suppressed."""
    log = json.loads(to_sarif(EVERY))
    (one,) = log["runs"]
    new, known, again = one["results"]

    assert log["version"] == "2.1.0"
    assert new["locations"] == [
        {
            "logicalLocations": [
                {
                    "name": "foo",
                    "fullyQualifiedName": "vmlinux:foo+0x1c",
                    "kind": "function",
                }
            ],
            "physicalLocation": {
                "artifactLocation": {"uri": "mm/foo%20bar.c", "uriBaseId": "SRCROOT"},
                "region": {"startLine": 42},
            },
        }
    ]
    assert new["partialFingerprints"] == {FINGERPRINT: PLACED.key}
    assert again["partialFingerprints"] == new["partialFingerprints"]
    assert new["occurrenceCount"] == 3
    assert "suppressions" not in new
    assert "physicalLocation" not in known["locations"][0]
    assert known["suppressions"] == [{"kind": "external"}]
    rules = one["tool"]["driver"]["rules"]
    assert rules[new["ruleIndex"]]["id"] == new["ruleId"] == "text/ret-1"
    assert rules[new["ruleIndex"]]["shortDescription"]["text"]
    (invocation,) = one["invocations"]
    assert invocation["executionSuccessful"] is False
    told = [
        each["message"]["text"] for each in invocation["toolExecutionNotifications"]
    ]
    assert told[:2] == ["MISS xen boot: no # KVM", "ERROR xen compare: lost"]


def test_sarif_has_no_line_0() -> None:
    """A result that was saved may have one: its first line is 1."""
    told = Finding("text/ret-1", Location("vmlinux", "foo", 0, 0, "mm/a.c:0"), "wrong")
    (one,) = json.loads(to_sarif(run(stage(told))))["runs"]

    (where,) = one["results"][0]["locations"]
    assert where["physicalLocation"] == {
        "artifactLocation": {"uri": "mm/a.c", "uriBaseId": "SRCROOT"}
    }


def test_markdown() -> None:
    """The matrix, then each finding once, in a fence that its window cannot close."""
    lines = to_markdown(EVERY).splitlines()

    assert "| variant | build | validate | boot | compare |" in lines
    assert (
        "| kvm \\#1 | - | FAIL, 1 new, 1.5 s | SKIP, 1.5 s | - |".replace(
            "1.5 s", "0.0 s"
        )
        in lines
    )
    assert lines.count("### `text/ret-1` at `foo+0x1c`") == 1
    assert "In xen validate, kvm \\#1 validate." in lines
    assert lines.count("````text") == lines.count("````") == 1
    assert f"- `{finding('k').key}`" in lines
    assert "ERROR xen compare: lost" in lines


@pytest.mark.parametrize("to", DOCUMENTS)
@settings(deadline=None, max_examples=25)
@given(odd=st.text(st.characters(exclude_categories=()), max_size=9))
@example(odd="caf\udce9")
@example(odd="\0\a\x1b[31m\x7f\x9b\ufffe\r\u2028")
def test_no_document_fails_on_text(to: Callable[[RunResult], object], odd: str) -> None:
    """A path that is no UTF-8, what a console had on it: all of it is written."""
    told = finding(odd, window=(odd,), declared=odd, actual=odd, reproduce=odd)
    bad = stage(told, known=(told,), variant=odd, reason=odd, notes=(odd,))
    lost = stage(of=Stage.BOOT, status=Status.ERROR, reason=odd, exit_code=3)
    result = run(bad, lost, tree=odd, tools={odd: odd}, baseline=odd)

    document = to(result)

    text = document.decode() if isinstance(document, bytes) else str(document)
    text.encode()
    assert not re.search("[\0-\x08\x1b\x7f-\x9f\ufffe\uffff]", text)
    if text.startswith("<?xml"):
        ElementTree.fromstring(text)
    if text.startswith("{"):
        msgspec.json.decode(text)


def test_markdown_folds_what_says_the_same() -> None:
    """One window, all keys, all stages that have any of them."""
    f, g = (finding(name, declared="sp+8", actual="sp+16") for name in "fg")
    document = to_markdown(run(stage(f), stage(f, g, variant="kvm")))

    assert document.count("### ") == document.count("vmlinux: f+0x4: wrong") == 1
    assert "[2 places]" in document
    assert "In xen validate, kvm validate." in document
    assert f"alike     g+0x4: {g.key}" in document


def test_markdown_is_no_longer_than_a_comment() -> None:
    """Of what has no room: how many, and who has them."""
    window = tuple(f"{number:#06x}: mov %rax,%rbx" for number in range(40))
    many = [finding(f"f{number}", window=window) for number in range(2000)]
    huge = finding("huge", window=window * 999)
    lost = stage(of=Stage.BOOT, status=Status.ERROR, reason="lost", exit_code=3)
    result = run(stage(huge, *many, known=tuple(many)), *[lost] * 2000, run_id="one")

    document = to_markdown(result)

    shown = document.count("### ")
    keys = document.count("\n- `text/depth:")
    rest = "more, which `orc-harness report one` and its `report.html` have."
    assert "## No verdict" in document
    assert "f0+0x4: wrong" in document
    assert f"{2001 - shown:,} {rest}" in document
    assert f"{2000 - keys:,} {rest}" in document
    assert len(document) < 65_536


def test_markdown_leaves_words_alone() -> None:
    """What looks like a tag or a link is neither."""
    assert escape("<b>[x](y)|*a*\n_") == r"\<b\>\[x\](y)\|\*a\* \_"
