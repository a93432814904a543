"""Validation of what Debian ships, without debug packages, tree or Docker."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.container import image
from harness.container.engine import connect
from harness.container.job import Limits, Mount, own
from harness.elf.bzimage import parse_bzimage

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


def run(command: str, *arguments: Path | str) -> dict[str, Any]:
    """What a command that finds nothing new says."""
    done = subprocess.run(
        [sys.executable, "-m", "harness", command, "--format", "json", *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == 0, done.stdout[-3000:]
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.static
def test_the_image_that_debian_boots(debian: Path) -> None:
    """The payload of vmlinuz is unpacked and judged.

    Its names are those of its own kallsyms, by which the baseline knows it.
    """
    (vmlinuz,) = (debian / "boot").glob("vmlinuz-*")

    (stage,) = run("validate", vmlinuz)["stages"]

    assert stage["findings"] == []
    assert stage["known"]
    assert any("names from its kallsyms" in note for note in stage["notes"])
    assert stage["counts"]["sites"] > 500
    assert stage["counts"]["orc entries"] > 200_000


@pytest.mark.boot
def test_what_debian_boots_is_as_predicted(debian: Path, tmp_path: Path) -> None:
    """All that distributions turn on, natively: every byte, and what the unwinder says.

    As people have it: names from its kallsyms, no tree and no debug package.
    """
    (vmlinuz,) = (debian / "boot").glob("vmlinuz-*")
    image = np.frombuffer(vmlinuz.read_bytes(), np.uint8)
    (tmp_path / "bzImage").symlink_to(vmlinuz)
    (tmp_path / "vmlinux").write_bytes(
        parse_bzimage(image, "vmlinuz").vmlinux.tobytes()
    )

    result = run("boot", "--compare", tmp_path)

    stages = {one["stage"]: one for one in result["stages"]}
    assert {one["status"] for one in stages.values()} == {"PASS"}, stages
    read, compared = stages["readback"]["counts"], stages["compare"]["counts"]
    assert read["text_bytes"] > 10_000_000
    assert read["text_differing"] > 400_000
    assert read["text_unexplained"] == read["text_later_unexplained"] == 0
    assert compared["points"] > 500


@pytest.mark.static
def test_a_directory_of_its_modules(debian: Path) -> None:
    """Every module of the network drivers gets a verdict."""
    modules = next(debian.rglob("kernel/drivers/net"))

    (stage,) = run("validate", modules)["stages"]

    assert stage["status"] == "PASS"
    assert stage["counts"]["files"] > 20
