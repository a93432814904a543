"""Keys: whatever a result depends on makes another one."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from harness.cells import key
from harness.cells.cell import Cell
from harness.cells.key import cell_key, code_digest, host_facts, no_key
from harness.container.image import Image
from harness.corpus.booted import Boot
from harness.corpus.built import Build
from harness.text.decode import Decoder
from harness.variant import Platform

BOOT = Boot("mine", "b")
CELL = Cell(Build("mine", "bookworm"), BOOT)
IMAGE = Image("machine:1", {"qemu": "10.0.2"}, created=False)


def of(
    cell: Cell = CELL,
    build: str = "1234",
    machine: Image = IMAGE,
    seed: int = 0,
    engine: str = "docker",
) -> str:
    return cell_key(cell, build, machine, seed, engine)


@pytest.mark.parametrize(
    "other",
    [
        {"build": "5678"},
        {"seed": 1},
        {"engine": "host"},
        {"machine": replace(IMAGE, tag="machine:2")},
        {"machine": replace(IMAGE, identity={"qemu": "10.1"})},
        {"cell": replace(CELL, kaslr=True)},
        {"cell": replace(CELL, xen_args="spec-ctrl=no")},
        {"cell": replace(CELL, boot=replace(BOOT, platform=Platform.XEN))},
        {"cell": replace(CELL, boot=replace(BOOT, append="mitigations=off"))},
        {"cell": replace(CELL, boot=replace(BOOT, cpu="EPYC"))},
        {"cell": replace(CELL, boot=replace(BOOT, says="Using FineIBT"))},
    ],
)
def test_every_input_is_in_the_key(other) -> None:
    """Another kernel, machine, command line, seed or engine is another result."""
    assert of(**other) != of()


def test_a_name_is_not_in_the_key() -> None:
    """Two cells that do the same have one result."""
    other = replace(CELL, boot=replace(BOOT, name="yours", nightly=True))
    assert of(other) == of()


def test_our_code_and_the_host_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that was mended, and a host that has KVM, may see something else."""
    before = of()
    monkeypatch.setattr(key, "code_digest", lambda: "other")
    mended = of()
    monkeypatch.setattr(key, "host_facts", lambda _: ("x86_64", "kvm", "cpu", "6.1"))

    assert len({before, mended, of()}) == 3


def test_the_decoder_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever is used here, by demand or because the other is not there."""
    keys = set()
    for decoder in Decoder:
        monkeypatch.setattr(key, "default_decoder", lambda used=decoder: used)
        keys.add(of())

    assert len(keys) == len(Decoder) == 2


def test_what_our_code_is(tmp_path: Path) -> None:
    """All that makes results: no page that shows them, nothing that is compiled."""
    for name in ("verify/check.py", "boot/guest/init.c", "report/page/a.html"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1")
    before = code_digest(tmp_path)
    for name in ("report/page/a.html", "verify/__pycache__/check.pyc", "text/_z.so"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("2")
    code_digest.cache_clear()
    assert code_digest(tmp_path) == before
    for name in ("verify/check.py", "boot/guest/init.c"):
        (tmp_path / name).write_text("2")
        code_digest.cache_clear()
        assert code_digest(tmp_path) != before
        before = code_digest(tmp_path)


def test_a_host_without_kvm_is_every_host(tmp_path: Path) -> None:
    """What is emulated does not see the CPU below; what KVM runs does."""
    assert host_facts("docker", tmp_path / "kvm") == ("x86_64", "no kvm")
    (tmp_path / "kvm").touch()
    assert len(host_facts("docker", tmp_path / "kvm")) == 4


def test_whose_the_device_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container is given it though we may not open it; QEMU on the host is not."""
    (tmp_path / "kvm").touch()
    monkeypatch.setattr("os.access", lambda *_: False)

    assert host_facts("docker", tmp_path / "kvm")[1] == "kvm"
    assert host_facts("host", tmp_path / "kvm")[1] == "no kvm"


def test_a_kernel_that_was_never_known() -> None:
    """Its result is this night's alone."""
    assert no_key(CELL, "one") != no_key(CELL, "two")
