"""Validation of what Debian ships, without debug packages, tree or Docker."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.container import image
from harness.container.engine import connect
from harness.container.job import Limits, Mount, own

# Unprivileged, as containers of ours are: apt keeps its state in /tmp.
FETCH = """
set -e
mkdir -p /tmp/lists/partial /tmp/cache/archives/partial
apt() {
    command=$1
    shift
    "apt-$command" -q -o Dir::State::lists=/tmp/lists -o Dir::Cache=/tmp/cache \\
        -o Debug::NoLocking=1 "$@"
}
cd /out
apt get update
package=$(apt cache depends linux-image-cloud-amd64 |
    grep -o 'linux-image-[0-9].*-cloud-amd64' | head -n 1)
apt get download "$package"
dpkg-deb -x "$package"*.deb .
rm -f ./*.deb
"""


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cloud kernel of the toolchain's Debian: vmlinuz and modules."""
    where = tmp_path_factory.mktemp("debian")
    text: list[str] = []
    with connect() as engine:
        made = image.ensure(engine, image.toolchain())
        own(where, engine.user)
        done = engine.run(
            made.tag,
            ["sh", "-c", FETCH],
            mounts=[Mount(where, "/out", writable=True)],
            limits=Limits(timeout_s=600),
            network=True,
            on_text=text.append,
        )
    assert done.returncode == 0, "".join(text)
    return where


def validate(*paths: Path, clean: bool) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "harness", "validate", "--format", "json", *paths],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == 0 or not clean, done.stdout[-3000:]
    assert done.returncode in (0, 1), done.stdout[-3000:]
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.static
def test_the_image_that_debian_boots(debian: Path) -> None:
    """The payload of vmlinuz is unpacked and judged.

    Its names are those of its own kallsyms, by which the baseline knows it.
    """
    (vmlinuz,) = (debian / "boot").glob("vmlinuz-*")

    (stage,) = validate(vmlinuz, clean=True)["stages"]

    assert stage["findings"] == []
    assert stage["known"]
    assert any("names from its kallsyms" in note for note in stage["notes"])
    assert stage["counts"]["sites"] > 500
    assert stage["counts"]["orc entries"] > 200_000


@pytest.mark.static
def test_a_directory_of_its_modules(debian: Path) -> None:
    """Every module of the network drivers gets a verdict."""
    modules = next(debian.rglob("kernel/drivers/net"))

    (stage,) = validate(modules, clean=True)["stages"]

    assert stage["status"] == "PASS"
    assert stage["counts"]["files"] > 20
