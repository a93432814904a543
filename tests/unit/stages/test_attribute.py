"""New findings get their source line and whoever made them."""

from __future__ import annotations

from pathlib import Path

from harness.kernel_build import find
from harness.progress import silent
from harness.report import text
from harness.result import Status
from harness.stages import validate
from tests.builders.debugline import add_lines
from tests.builders.elfwriter import ET_EXEC, ET_REL, call
from tests.unit.verify.test_blame import BALANCED, RIGHT, TEXT, write

WRONG = [(0, call(8)), (1, call(24)), (3, call(8))]


def test_a_finding_says_where_and_who(tmp_path: Path) -> None:
    """From vmlinux's debug information, and from vmlinux.o beside it."""
    kernel = write(ET_EXEC, BALANCED, WRONG)
    add_lines(kernel, TEXT, [(16, 10), (4, 42)])
    (tmp_path / "vmlinux").write_bytes(kernel.build())
    (tmp_path / "vmlinux.o").write_bytes(write(ET_REL, BALANCED, RIGHT).build())

    result = validate.stage(find(tmp_path), "here", 1, silent, archived=False)

    assert result.status is Status.FAIL
    assert result.findings
    for finding in result.findings:
        assert finding.location.line == "kernel/fork.c:42"
        assert finding.blame.startswith("linker: ")
    printed = "\n".join(text.lines(result.findings[0]))
    assert "(kernel/fork.c:42)" in printed
    assert "  blame     linker: right in vmlinux.o, wrong in vmlinux" in printed


def test_without_either_it_says_neither(tmp_path: Path) -> None:
    """A lone kernel has findings all the same."""
    path = tmp_path / "vmlinux"
    path.write_bytes(write(ET_EXEC, BALANCED, WRONG).build())

    result = validate.stage(find(path), "here", 1, silent, archived=False)

    assert result.findings
    assert {(f.location.line, f.blame) for f in result.findings} == {("", "")}
