"""The page in a browser: drawn in light and in dark, with nothing refused or fetched."""

from __future__ import annotations

import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

from harness.report.html import to_html
from tests.unit.report.test_html import AFTER, PAST

TIMEOUT_S = 300
SIZE = (1280, 2400)
SCHEMES = {"light": (1, (255, 255, 255)), "dark": (0, (13, 17, 23))}


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


@pytest.mark.parametrize("scheme", SCHEMES)
def test_screenshot(browser: str, scheme: str, tmp_path: Path) -> None:
    """The background is the scheme's; the console has nothing to say."""
    page, shot = tmp_path / "page.html", tmp_path / f"{scheme}.png"
    page.write_text(to_html(AFTER, PAST))
    setting, background = SCHEMES[scheme]

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
            f"--user-data-dir={tmp_path}/profile",
            f"--blink-settings=preferredColorScheme={setting}",
            f"--window-size={SIZE[0]},{SIZE[1]}",
            f"--screenshot={shot}",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr  # where a refused style or address would be
    size, colour = corner(shot.read_bytes())
    assert size == SIZE
    assert colour == background
