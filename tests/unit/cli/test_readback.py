"""``orc-harness readback``: what pairs with what, and dumps."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli.app import app
from harness.cli.readback import pairs
from harness.errors import UserError
from harness.variant import Platform
from tests.builders.corefile import corefile
from tests.builders.elfwriter import ElfWriter

A, B = Path("a"), Path("b")


def test_builds_and_platforms_pair() -> None:
    """One build boots everywhere; several each on their own platform."""
    both = [Platform.NATIVE, Platform.XEN]
    assert pairs([A], both) == [(A, Platform.NATIVE), (A, Platform.XEN)]
    assert pairs([A, B], both) == [(A, Platform.NATIVE), (B, Platform.XEN)]
    with pytest.raises(UserError, match="2 builds for 1 platforms"):
        pairs([A, B], [Platform.XEN])


def test_a_dump_of_another_kernel_is_no_finding(tmp_path: Path) -> None:
    """One clear error, and what to look at; exit code 2."""
    (tmp_path / "vmlinux").write_bytes(ElfWriter(2).build())
    (tmp_path / "core").write_bytes(corefile([(0, 0, bytes(64))]))
    done = CliRunner().invoke(
        app, ["readback", str(tmp_path), "--vmcore", str(tmp_path / "core")]
    )
    assert done.exit_code == 2
    assert "ERROR core readback: vmlinux has no symbol linux_banner" in done.output


def test_a_dump_has_one_build(tmp_path: Path) -> None:
    """Its platform is what its kernel says."""
    done = CliRunner().invoke(
        app, ["readback", "a", "b", "--vmcore", str(tmp_path / "core")]
    )
    assert isinstance(done.exception, UserError)
