"""``orc-harness patch``: what it says, and its exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from harness.cli import patch
from harness.elf.load import load
from tests.unit.stages.test_patch import BASE, a_vmlinux

APP = typer.Typer()
APP.command()(patch.command)


def run(*arguments: str | Path) -> tuple[int, str]:
    """Run the command; return its exit code and what it printed."""
    result = CliRunner().invoke(APP, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_it_writes_what_xen_runs(tmp_path: Path) -> None:
    """One line says how much changed; the notes, what was assumed."""
    path, target = a_vmlinux(tmp_path / "vmlinux"), tmp_path / "vmlinux.xen"
    code, said = run(path, "--platform", "xen", "-o", target, "--check")
    assert code == 0
    assert "2 sites, 5 bytes changed (era E5)" in said
    assert "checked: 0 findings" in said
    assert load(target).read(BASE, 1).tobytes() == b"\xfc"


@pytest.mark.parametrize(
    ("options", "sites"),
    [(["--cpu", "all"], 2), (["--feature", "SMAP"], 2), (["--no-feature", "SMAP"], 2)],
)
def test_it_speaks_json(tmp_path: Path, options: list[str], sites: int) -> None:
    """The fields are those of docs/json.md."""
    path = a_vmlinux(tmp_path / "vmlinux")
    code, said = run(path, "--platform", "native", "--format", "json", *options)
    data = json.loads(said)["data"]
    text = (Path(__file__).parents[3] / "docs" / "json.md").read_text()
    table = text.partition("| `patch` |")[2].partition("\n\n")[0]
    assert code == 0
    assert data["sites"] == sites
    assert all(f"`{name}`" in table for name in data)


def test_a_feature_is_there_or_not(tmp_path: Path) -> None:
    """One that both options name cannot be done."""
    path = a_vmlinux(tmp_path / "vmlinux")
    with pytest.raises(Exception, match="both name SMAP"):
        run(path, "--platform", "kvm", "--feature", "SMAP", "--no-feature", "SMAP")
