"""HTML: a run as one page that needs nothing else: no network, no script, no font.

It is drawn in light and dark as the reader's system is, and says in words whatever it
says in colours. ``page/`` has its template and style sheet.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from msgspec import Struct

from harness.finding import Finding
from harness.history.diff import Diff
from harness.history.trend import Trend, coverage
from harness.report import covered, text
from harness.report.chronicle import number
from harness.result import RunResult, StageResult, legible

PAGE = Path(__file__).parent / "page"

_WIDTH, _HEIGHT = 160, 32  # of a trend, in the units of its drawing
_ARROW = "->"


class Told(Struct, frozen=True):
    """One finding and where it was found; ``anchor`` is its place in the page."""

    finding: Finding
    known: bool
    where: tuple[str, ...]

    @property
    def anchor(self) -> str:
        """A name for links; a key has characters that links have not."""
        digest = hashlib.sha256(self.finding.key.encode())
        return f"{'known' if self.known else 'new'}-{digest.hexdigest()[:12]}"

    @property
    def facts(self) -> dict[str, str]:
        """What there is to say of it, by name."""
        finding = self.finding
        facts = {
            "found in": ", ".join(self.where),
            "text": finding.variant,
            "platforms": ", ".join(finding.platforms),
            "declared": finding.declared,
            "actual": finding.actual,
            "blame": finding.blame,
            "expired": "; ".join(finding.expired),
            "places": str(finding.occurrences) if finding.occurrences > 1 else "",
            "key": finding.key,
        }
        return {name: value for name, value in facts.items() if value}

    @property
    def lines(self) -> Iterator[tuple[str, bool]]:
        """The window, and which of its lines have the arrow."""
        for line in self.finding.window:
            yield line, line.startswith(_ARROW)


class Share(Struct, frozen=True):
    """A bar: ``value`` is in words, ``percent`` is how long it is."""

    name: str
    value: str
    percent: float


def to_html(
    run: RunResult, trends: Sequence[Trend] = (), since: Diff | None = None
) -> str:
    """Return ``run`` as a page, with ``trends`` and what changed ``since`` another."""
    run, trends, since = legible((run, trends, since))
    environment = Environment(
        loader=FileSystemLoader(PAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    told = findings(run.stages)
    return environment.get_template("page.html").render(
        run=run,
        summary=text.summary(run),
        stages=text.columns(run.stages),
        rows=list(text.rows(run.stages)),
        new=[each for each in told if not each.known],
        known=[each for each in told if each.known],
        problems=list(text.problems(run.stages)),
        coverage=list(_coverage(run.stages)),
        executed=list(_executed(run.stages)),
        hottest=list(covered.hottest(run.stages)),
        times=list(_times(run.stages)),
        trends=[(trend, polyline(trend.values)) for trend in trends if trend.moved],
        since=since,
        size=(_WIDTH, _HEIGHT),
    )


def findings(stages: Iterable[StageResult]) -> list[Told]:
    """Return each finding once, with all the places that have it; new ones first."""
    found: dict[tuple[bool, str], tuple[Finding, list[str]]] = {}
    for stage in stages:
        place = f"{stage.variant} {stage.stage}"
        told = zip(itertools.repeat(False), stage.findings)
        for known, finding in (*told, *zip(itertools.repeat(True), stage.known)):
            _, where = found.setdefault((known, finding.key), (finding, []))
            where.append(place)
    listed = [
        Told(finding, known, tuple(where))
        for (known, _), (finding, where) in found.items()
    ]
    return sorted(listed, key=lambda told: told.known)


def _coverage(stages: Iterable[StageResult]) -> Iterator[Share]:
    for stage in stages:
        if (share := coverage(stage.counts)) is not None:
            yield Share(stage.variant, f"{share:.2f} %", share)


def _executed(stages: Iterable[StageResult]) -> Iterator[Share]:
    for share in covered.shares(stages):
        yield Share(f"{share.variant}: {share.kind}", str(share), share.percent)


def _times(stages: Iterable[StageResult]) -> Iterator[Share]:
    ran = [stage for stage in stages if stage.seconds > 0]
    longest = max((stage.seconds for stage in ran), default=1.0)
    for stage in ran:
        name = f"{stage.variant} {stage.stage}"
        percent = 100 * stage.seconds / longest
        yield Share(name, f"{stage.seconds:,.1f} s", percent)


def polyline(values: Sequence[float]) -> str:
    """Return the points of a line through ``values``, left to right."""
    low, high = min(values), max(values)
    step = _WIDTH / max(len(values) - 1, 1)
    scale = _HEIGHT / (high - low) if high > low else 0
    return " ".join(
        f"{at * step:.1f},{_HEIGHT - (value - low) * scale:.1f}"
        for at, value in enumerate(values)
    )
