"""The page: whole in itself, linked within, and nothing of a kernel is markup."""

from __future__ import annotations

from html.parser import HTMLParser

from harness.finding import Finding, Location
from harness.history.diff import diff
from harness.history.trend import measured, trends
from harness.report.html import findings, polyline, to_html
from harness.result import Stage, Status
from tests.builders.results import finding, run, stage

ODD = Finding(
    "text/ret-1",
    Location("vmlinux", "foo<script>", 4, 0, "mm/a.c:3"),
    "wrong & <b>worse</b>",
    window=("  0: push", "-> 1: ret </pre>"),
    reproduce="orc-harness validate 'a b'",
)
BEFORE = run(
    stage(finding("gone"), variant="xen", seconds=1.0),
    stage(variant="kvm", counts={"defined": 100}),
)
AFTER = run(
    stage(of=Stage.BUILD, seconds=60.0),
    stage(ODD, known=(finding("k"),), seconds=2.5, counts={"sites": 7}),
    stage(of=Stage.BOOT, status=Status.MISS, reason="no <KVM>"),
    stage(ODD, variant="kvm", counts={"defined": 80, "blind": 20}),
    stage(known=(ODD,), variant="vsmp"),
)


class Page(HTMLParser):
    """What a page has: its elements, in order, and that each is closed."""

    VOID = ("meta", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, name: str) -> list[str]:
        """Return every value of the attribute ``name``."""
        return [str(attrs[name]) for _, attrs in self.elements if name in attrs]


PAST = trends((*measured(BEFORE), *measured(AFTER)))
TEXT = to_html(AFTER, PAST, diff(BEFORE, AFTER))
PAGE = Page(TEXT)


def test_links_end_in_the_page() -> None:
    """Every name is one element's; whatever is referred to is there."""
    ids = PAGE.all("id")

    assert len(ids) == len(set(ids))
    assert {link.removeprefix("#") for link in PAGE.all("href")} <= set(ids)
    assert set(PAGE.all("aria-labelledby")) <= set(ids)


def test_nothing_is_fetched_or_run() -> None:
    """No address, no script; and the browser is told to allow none."""
    tags = {tag for tag, _ in PAGE.elements}

    assert not tags & {"script", "link", "img", "iframe", "object"}
    assert not PAGE.all("src")
    assert "http://" not in TEXT
    assert "https://" not in TEXT
    assert "url(" not in TEXT
    assert "default-src 'none'; style-src 'unsafe-inline'" in PAGE.all("content")


def test_names_of_a_kernel_are_text() -> None:
    """Symbols, messages, windows and reasons."""
    assert "vmlinux: foo&lt;script&gt;+0x4 (mm/a.c:3)" in TEXT
    assert "wrong &amp; &lt;b&gt;worse&lt;/b&gt;" in TEXT
    assert "<mark>-&gt; 1: ret &lt;/pre&gt;</mark>" in TEXT
    assert "no &lt;KVM&gt;" in TEXT


def test_what_it_says() -> None:
    """Verdicts in words, coverage, times, trends, and what became of the baseline."""
    cells = [attrs.get("class") for tag, attrs in PAGE.elements if tag == "td"]
    assert cells[:6] == ["PASS", "FAIL", "MISS", "quiet", "FAIL", "quiet"]
    assert "<strong>MISS</strong>" in TEXT
    assert "80.00 %" in TEXT
    assert "60.0 s" in TEXT
    assert 'aria-label="2 runs, from 80 to 100"' in TEXT
    assert f"Since {BEFORE.run_id}" in TEXT
    assert "2 new, 0 known, 1 fixed, 0 unseen" in TEXT


def test_a_finding_is_told_once() -> None:
    """With all who have it; new ones before known ones."""
    told = findings(AFTER.stages)

    assert [each.known for each in told] == [False, True, True]
    assert told[0].where == ("xen validate", "kvm validate")
    assert TEXT.count(f'id="{told[0].anchor}"') == 1
    assert "<h1>1 new findings, 2 known causes," in TEXT
    assert "New findings (1)" in TEXT
    assert "Known findings (2)" in TEXT


def test_the_least() -> None:
    """A run without anything is a page, too."""
    page = Page(to_html(run()))

    assert [tag for tag, _ in page.elements].count("h2") == 1


def test_polyline() -> None:
    """Low is at the bottom; equal numbers are a level line."""
    assert polyline((0, 2, 1)) == "0.0,32.0 80.0,0.0 160.0,16.0"
    assert polyline((5, 5)) == "0.0,32.0 160.0,32.0"
