"""What failed: the tree or the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.build import diagnose
from harness.container.job import Exit
from harness.errors import BuildError, InfraError

KEPT = Path("/kept.log")


@pytest.mark.parametrize(
    ("ended", "log", "expected"),
    [
        (Exit(137, timed_out=True), "", "did not end within 9 s"),
        (Exit(2, oom_killed=True), "", "memory limit"),
        (Exit(2), "as: No space left on device\n", "disk is full"),
        (Exit(2), "gcc: fatal error: Killed signal terminated program cc1\n", "memory"),
        (Exit(2), "ccache: error: Failed to create file", "ccache failed"),
        (Exit(2), "sh: 1: Cannot fork", "no more processes"),
        (Exit(137), "", "killed"),
    ],
)
def test_machine_failures_are_told_from_the_trees(ended, log, expected):
    """Where make only says Error 1, the log and the flags say why."""
    with pytest.raises(InfraError, match=expected):
        diagnose.require_machine(ended, log, KEPT, 9)


def test_out_of_memory_counts_even_if_make_went_on():
    """A killed compiler may leave a wrong kernel and status 0."""
    with pytest.raises(InfraError):
        diagnose.require_machine(Exit(0, oom_killed=True), "", KEPT, 9)


@pytest.mark.parametrize("returncode", [0, 2])
def test_an_ordinary_end_is_not_the_machines(returncode):
    """A syntax error is somebody else's to report."""
    log = "a.c:1:1: error: expected ';'\n"
    diagnose.require_machine(Exit(returncode), log, KEPT, 9)


def test_build_error_quotes_the_first_errors(tmp_path):
    """The compiler's own words come first, in order, and the log is named."""
    log = tmp_path / "build.log"
    log.write_text(
        "  CC      a.o\na.c:1:1: error: first\n  CC      b.o\n"
        "b.c:2:2: error: second\nmake[1]: *** [a.o] Error 1\n"
    )
    error = diagnose.build_error(log, KEPT, "does not build")
    assert isinstance(error, BuildError)
    assert error.message.splitlines() == [
        "the tree does not build:",
        "  a.c:1:1: error: first",
        "  b.c:2:2: error: second",
        "  make[1]: *** [a.o] Error 1",
    ]
    assert str(KEPT) in (error.hint or "")


def test_without_an_error_line_the_tail_is_quoted():
    """Something is always quoted."""
    assert diagnose.first_errors("one\ntwo\n") == ["one", "two"]


def _output(tmp_path, config: str, flags: str) -> Path:
    (tmp_path / "kernel").mkdir()
    (tmp_path / ".config").write_text(config)
    command = f"savedcmd_kernel/fork.o := gcc {flags} -c\n"
    (tmp_path / "kernel/.fork.o.cmd").write_text(command)
    return tmp_path


def test_option_lost_during_the_build_is_found(tmp_path):
    """kbuild drops an option when its test of the compiler fails midway."""
    out = _output(tmp_path, "CONFIG_A=y\n", "")
    with pytest.raises(InfraError, match="X86_KERNEL_IBT: y became n"):
        diagnose.require_intact(out, {"A": "y", "X86_KERNEL_IBT": "y"})


def test_object_compiled_without_its_options_flag_is_found(tmp_path):
    """.config may say IBT while objects were compiled without it."""
    out = _output(tmp_path, "CONFIG_X86_KERNEL_IBT=y\n", "-fcf-protection=none")
    with pytest.raises(InfraError, match="fcf-protection=branch"):
        diagnose.require_intact(out, {"X86_KERNEL_IBT": "y"})


_RETPOLINES = "CONFIG_MITIGATION_RETPOLINE=y\n"


@pytest.mark.parametrize(
    "flag", ["-mindirect-branch=thunk-extern", "-mretpoline-external-thunk"]
)
def test_each_compiler_has_its_flag(tmp_path, flag):
    """Retpolines are asked for in other words of gcc than of clang."""
    out = _output(tmp_path, _RETPOLINES, flag)
    diagnose.require_intact(out, {"MITIGATION_RETPOLINE": "y"})


def test_object_without_the_flag_of_any_compiler(tmp_path):
    """The error names all that would have done."""
    out = _output(tmp_path, _RETPOLINES, "-mretpoline")
    with pytest.raises(InfraError, match="thunk-extern or -mretpoline-external"):
        diagnose.require_intact(out, {"MITIGATION_RETPOLINE": "y"})


def test_intact_output_is_accepted(tmp_path):
    """The same .config and the right flags raise nothing."""
    out = _output(tmp_path, "CONFIG_X86_KERNEL_IBT=y\n", "-fcf-protection=branch")
    diagnose.require_intact(out, {"X86_KERNEL_IBT": "y"})
