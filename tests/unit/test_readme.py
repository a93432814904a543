"""The README shows what the harness really prints."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from harness.finding import group_by_cause
from harness.report import text
from harness.verify.check import check
from tests.builders.site import XENPV, Replacement, a_site

README = Path(__file__).resolve().parents[2] / "README.md"
MARK = "<!-- golden -->\n"


def golden() -> list[str]:
    """The finding of the bug that started it all: a lost entry of `pushf; pop`."""
    call_pv_ops = bytes.fromhex("ff1500000000")
    pushf_pop = Replacement(bytes.fromhex("9c58"), XENPV, flags=1)
    (finding,) = group_by_cause(check(a_site(call_pv_ops, [pushf_pop])).findings)
    finding = replace(
        finding,
        location=replace(finding.location, object="vmlinux", symbol="arch_local_save"),
        reproduce="orc-harness validate vmlinux",
    )
    return list(text.lines(finding))


def test_the_golden_finding() -> None:
    """At most 25 lines of 100 columns, and letter by letter what is printed."""
    shown = README.read_text().split(MARK)[1]

    assert shown == "".join(
        f"    {line}\n".replace("    \n", "\n") for line in golden()
    )
    assert len(shown.splitlines()) <= 25
    assert max(map(len, shown.splitlines())) <= 100
