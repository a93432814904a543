"""Run: the only door to processes on the host.

Arguments are lists, never shell text; every wait has a limit; a failure carries
the command, its exit status and the tail of its output.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import InfraError

TAIL_LINES = 20


@dataclass(frozen=True, slots=True)
class Completed:
    """A finished process: its arguments, exit status and merged output."""

    argv: tuple[str, ...]
    returncode: int
    output: str

    @property
    def tail(self) -> str:
        """The last lines of the output, for messages."""
        return "\n".join(self.output.splitlines()[-TAIL_LINES:])


def run(
    argv: Sequence[str],
    *,
    timeout_s: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
) -> Completed:
    """Run ``argv`` and return it, whatever its exit status.

    Raises:
        InfraError: the program is missing or outlived ``timeout_s``.
    """
    chunks: list[str] = []
    returncode = stream(
        argv, chunks.append, timeout_s=timeout_s, cwd=cwd, env=env, stdin=stdin
    )
    return Completed(tuple(argv), returncode, "".join(chunks))


def check(
    argv: Sequence[str],
    *,
    timeout_s: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    hint: str | None = None,
) -> str:
    """Run ``argv`` and return its output.

    Raises:
        InfraError: it failed, is missing or outlived ``timeout_s``.
    """
    done = run(argv, timeout_s=timeout_s, cwd=cwd, env=env, stdin=stdin)
    if done.returncode:
        raise InfraError(
            f"{shlex.join(done.argv)} exited with {done.returncode}\n{done.tail}",
            hint=hint,
        )
    return done.output


def stream(
    argv: Sequence[str],
    on_text: Callable[[str], object],
    *,
    timeout_s: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
) -> int:
    """Run ``argv``, hand each line of merged output on as it comes.

    The process has a group of its own, which is killed whole at the deadline
    and when an exception (Ctrl-C too) passes through. Returns the exit status.
    """
    try:
        process = subprocess.Popen(
            list(argv),
            cwd=cwd,
            env=None if env is None else dict(env),
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as exc:
        raise InfraError(
            f"cannot run {argv[0]}: {exc.strerror or exc}",
            hint="orc-harness doctor lists what this machine lacks",
        ) from exc
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        _kill_group(process)

    timer = threading.Timer(timeout_s, expire)
    timer.daemon = True
    timer.start()
    try:
        _feed(process, stdin)
        assert process.stdout is not None
        for line in process.stdout:
            on_text(line.decode(errors="replace"))
        process.wait()
    finally:
        timer.cancel()
        _kill_group(process)
        process.wait()
    if expired.is_set():
        raise InfraError(f"{shlex.join(argv)} did not end within {timeout_s:g} s")
    return process.returncode


def _feed(process: subprocess.Popen[bytes], data: bytes | None) -> None:
    if data is None or process.stdin is None:
        return

    def write() -> None:
        assert process.stdin is not None
        try:
            process.stdin.write(data)
            process.stdin.close()
        except BrokenPipeError:
            pass  # the exit status tells why it stopped reading

    threading.Thread(target=write, daemon=True).start()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def which(program: str) -> str | None:
    """Return the path of ``program`` on PATH (sbin included), or None."""
    path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    return shutil.which(program, path=path)
