"""The page in a browser: drawn in light and in dark, with nothing refused or fetched."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import zlib
from html import escape
from pathlib import Path

import pytest
from msgspec.structs import replace

from harness.history.diff import diff
from harness.history.trend import measured, trends
from harness.report.html import to_html
from harness.result import Stage, Status
from tests.builders.results import finding, run, stage
from tests.unit.report.test_html import AFTER, PAST

TIMEOUT_S = 300
SIZE = (1280, 2400)
WIDTHS = (360, 800, 1400)
SCHEMES = {"light": (1, (255, 255, 255)), "dark": (0, (13, 17, 23))}
# Frames of one origin are measured from outside: the page itself runs no script.
MEASURE = """<script>
onload = () => document.querySelectorAll("iframe").forEach(frame => {
    const page = frame.contentDocument.documentElement;
    const told = document.body.appendChild(document.createElement("p"));
    told.textContent = `${page.scrollWidth} of ${page.clientWidth}`;
});
</script>"""


@pytest.fixture(scope="module")
def browser() -> str:
    """Debian's Chromium."""
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("no chromium: ci/host --tests")
    return found


def corner(png: bytes) -> tuple[tuple[int, int], tuple[int, ...]]:
    """Return the size of an image, and the colour of its first pixel."""
    width, height, depth, kind = struct.unpack_from(">IIBB", png, 16)
    assert (depth, kind) in {(8, 2), (8, 6)}  # RGB, RGBA
    data, at = b"", 8
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        if png[at + 4 : at + 8] == b"IDAT":
            data += png[at + 8 : at + 8 + length]
        at += length + 12
    # whatever its filter, the first pixel of all has no neighbour to differ from
    return (width, height), tuple(zlib.decompress(data)[1:4])


def visit(browser: str, page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Let the browser draw ``page``."""
    done = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--enable-logging=stderr",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={page.parent}/profile",
            *options,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr  # where a refused style or address would be
    return done


@pytest.mark.parametrize("scheme", SCHEMES)
def test_screenshot(browser: str, scheme: str, tmp_path: Path) -> None:
    """The background is the scheme's; the console has nothing to say."""
    page, shot = tmp_path / "page.html", tmp_path / f"{scheme}.png"
    page.write_text(to_html(AFTER, PAST))
    setting, background = SCHEMES[scheme]

    visit(
        browser,
        page,
        f"--blink-settings=preferredColorScheme={setting}",
        f"--window-size={SIZE[0]},{SIZE[1]}",
        f"--screenshot={shot}",
    )

    size, colour = corner(shot.read_bytes())
    assert size == SIZE
    assert colour == background


def test_long_names_scroll_nothing_sideways(browser: str, tmp_path: Path) -> None:
    """Names as Rust mangles them, on a telephone and on a desk: all lines are broken."""
    name = "_R" + "N" * 298
    told = finding(name, declared=name, window=(name,), reproduce=name)
    bad = replace(told, message=f"wrong in {name}")
    lost = stage(of=Stage.BOOT, status=Status.ERROR, reason=name, exit_code=3)
    before = run(stage(finding(f"{name}2"), variant=name))
    after = run(
        stage(bad, finding(f"{name}3"), variant=name, known=(finding(f"{name}4"),)),
        lost,
        tree=name,
        profile=name,
        tools={"gcc": name},
    )
    past = trends((*measured(before), *measured(after)))
    drawn = to_html(after, past, diff(before, after))
    page = tmp_path / "frames.html"
    page.write_text(
        "".join(
            f'<iframe width="{width}" srcdoc="{escape(drawn)}"></iframe>'
            for width in WIDTHS
        )
        + MEASURE
    )

    done = visit(browser, page, "--dump-dom")

    told_widths = re.findall(r"<p>(\d+) of (\d+)</p>", done.stdout)
    assert len(told_widths) == len(WIDTHS)
    assert all(int(whole) <= int(seen) for whole, seen in told_widths), told_widths
