"""Diagnose: why a build ended as it did, and whether its output can be trusted.

A kernel that does not compile is a BuildError; a machine that ran out of something
is an InfraError, even where make only says "Error 1".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from harness.container.job import Exit
from harness.errors import BuildError, InfraError
from harness.kconfig import parse_config

ERROR_LINES = 8
_ERROR = re.compile(
    r"\b(?:fatal )?error\b[: ]|\berror:|undefined reference|^ERROR: |: \*\*\* |"
    r"\bSyntax error\b|multiple definition",
    re.IGNORECASE,
)
_MACHINE = (
    (re.compile(r"No space left on device"), "the disk is full", "free some space"),
    (
        re.compile(r"Killed signal terminated program|virtual memory exhausted|"
                   r"[Cc]annot allocate memory|out of memory"),
        "the compiler ran out of memory",
        "use fewer --jobs",
    ),
    (
        re.compile(r"ccache: error:"),
        "ccache failed",
        "delete ccache-* in the cache (orc-harness cache says where), or free some space",
    ),
    (
        re.compile(r"[Cc]annot fork|fork: .*[Rr]esource temporarily unavailable"),
        "no more processes could be started",
        "use fewer --jobs",
    ),
    (re.compile(r"Input/output error|Stale file handle"), "the disk failed", None),
)  # fmt: skip
_SAMPLES = ("kernel/.fork.o.cmd", "kernel/.panic.o.cmd", "mm/.memory.o.cmd")

_RETPOLINE = ("-mindirect-branch=thunk-extern", "-mretpoline-external-thunk")
# .config symbol -> what the compiler must then have been told, gcc or clang where they
# differ (arch/x86/Makefile and Makefile of v6.12; the old names are those before v6.9).
FLAGS = {
    "X86_KERNEL_IBT": ("-fcf-protection=branch",),
    "MITIGATION_RETPOLINE": _RETPOLINE,
    "RETPOLINE": _RETPOLINE,
    "MITIGATION_RETHUNK": ("-mfunction-return=thunk-extern",),
    "RETHUNK": ("-mfunction-return=thunk-extern",),
    "MITIGATION_SLS": ("-mharden-sls=all",),
    "SLS": ("-mharden-sls=all",),
}


def require_machine(ended: Exit, log: str, kept: Path, timeout_s: float) -> None:
    """Raise InfraError if a command failed because of the machine.

    ``log`` is what this command wrote, ``kept`` where the log will be found.
    """
    if ended.timed_out:
        raise InfraError(
            f"the build did not end within {timeout_s:g} s", hint=f"its log: {kept}"
        )
    if ended.oom_killed:
        raise InfraError(
            f"the build ran out of its memory limit; its log: {kept}",
            hint="use fewer --jobs",
        )
    if ended.returncode == 0:
        return
    for pattern, what, hint in _MACHINE:
        if match := pattern.search(log):
            raise InfraError(f"{what} ({match[0]!r}); the log: {kept}", hint=hint)
    if ended.returncode in (125, 126, 127, 137, -9):
        raise InfraError(
            f"the build was killed or could not start (status {ended.returncode}); "
            f"its log: {kept}"
        )


def build_error(log: Path, kept: Path, what: str) -> BuildError:
    """Return the error for a tree that ``what`` ("does not build")."""
    lines = first_errors(log.read_text(errors="replace"))
    quoted = "".join(f"\n  {line}" for line in lines)
    return BuildError(f"the tree {what}:{quoted}", hint=f"the whole log: {kept}")


def first_errors(text: str) -> list[str]:
    """Return the first lines that tell what went wrong, else the last lines."""
    lines = text.splitlines()
    errors = [line for line in lines if _ERROR.search(line)]
    return (errors or lines[-ERROR_LINES:])[:ERROR_LINES]


def require_intact(out: Path, configured: Mapping[str, str]) -> None:
    """Check that what was built is what was configured.

    A compiler that fails in the middle makes kbuild drop options without a word
    (its cc-option tests then say no), and the build goes on with others.

    Raises:
        InfraError: .config changed during the build, or the compiler was not told.
    """
    final = parse_config((out / ".config").read_text())
    if changed := sorted(
        symbol
        for symbol in {*final, *configured}
        if final.get(symbol, "n") != configured.get(symbol, "n")
    ):
        raise InfraError(
            f"{len(changed)} options changed during the build, first {changed[0]}: "
            f"{configured.get(changed[0], 'n')} became {final.get(changed[0], 'n')}",
            hint="the compiler failed in the middle of it; is the disk full?",
        )
    for sample in _SAMPLES:
        command = out / sample
        if command.exists():
            require_flags(command.read_text(errors="replace"), final, sample)


def require_flags(command: str, config: Mapping[str, str], name: str) -> None:
    """Check one object's saved command line against .config.

    Raises:
        InfraError: an option and its compiler flag disagree.
    """
    for symbol, flags in FLAGS.items():
        if config.get(symbol) == "y" and not any(flag in command for flag in flags):
            raise InfraError(
                f".config has CONFIG_{symbol}=y, and {name} was compiled without "
                + " or ".join(flags)
            )
