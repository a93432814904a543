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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from harness.errors import InfraError

TAIL_LINES = 20

_living: set[subprocess.Popen[bytes]] = set()
_spawning = threading.Lock()  # none is between its start and its place in the set


class Completed(Struct, frozen=True):
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
    process = _spawn(argv, cwd=cwd, env=env, stdin=stdin)
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        _kill_group(process)

    timer = threading.Timer(timeout_s, expire)
    timer.daemon = True
    try:
        timer.start()
        _feed(process, stdin)
        assert process.stdout is not None
        for line in process.stdout:
            on_text(line.decode(errors="replace"))
        process.wait()
    finally:
        timer.cancel()
        _end(process)
    if expired.is_set():
        raise InfraError(f"{shlex.join(argv)} did not end within {timeout_s:g} s")
    return process.returncode


class Process:
    """A process that runs beside us; :func:`started` makes and ends it."""

    def __init__(
        self, process: subprocess.Popen[bytes], on_text: Callable[[str], object] | None
    ) -> None:
        self._process = process
        self._on_text = on_text
        self._text: list[str] = []
        self._failure: Exception | None = None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                text = line.decode(errors="replace")
                self._text.append(text)
                if self._on_text is not None:
                    self._on_text(text)
        except Exception as exc:  # noqa: BLE001 - wait() raises it
            self._failure = exc
            self.kill()

    def alive(self) -> bool:
        """Tell whether it still runs."""
        return self._process.poll() is None

    def output(self) -> str:
        """Return the merged output so far."""
        return "".join(self._text)

    def kill(self) -> None:
        """Kill it and its whole group at once."""
        _kill_group(self._process)

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end and all of its output; False at the deadline.

        Raises what ``on_text`` raised: the process was killed then.
        """
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        self._reader.join(timeout_s)
        if self._failure is not None:
            raise self._failure
        return True

    @property
    def returncode(self) -> int:
        """Its exit status; -1 while it runs."""
        return -1 if self._process.returncode is None else self._process.returncode

    def close(self) -> None:
        """Kill what is left and read the rest."""
        self.kill()
        self._process.wait()
        _living.discard(self._process)
        self._reader.join()
        if self._process.stdout is not None:
            self._process.stdout.close()


@contextlib.contextmanager
def started(
    argv: Sequence[str],
    on_text: Callable[[str], object] | None = None,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[Process]:
    """Yield ``argv`` running in a group of its own, which dies with the block.

    Raises:
        InfraError: the program is missing.
    """
    process = Process(_spawn(argv, cwd=cwd, env=env, stdin=None), on_text)
    try:
        yield process
    finally:
        process.close()


def _spawn(
    argv: Sequence[str],
    *,
    cwd: Path | None,
    env: Mapping[str, str] | None,
    stdin: bytes | None,
) -> subprocess.Popen[bytes]:
    process: subprocess.Popen[bytes] | None = None
    try:
        with _spawning, _uninterrupted():
            process = subprocess.Popen(
                list(argv),
                cwd=cwd,
                env=None if env is None else dict(env),
                stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            _living.add(process)
    except KeyboardInterrupt:
        if process is not None:
            _end(process)
        raise
    except OSError as exc:
        raise InfraError(
            f"cannot run {argv[0]}: {exc.strerror or exc}",
            hint="orc-harness doctor lists what this machine lacks",
        ) from exc
    return process


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold back what interrupts us until the block has ended.

    A command whose ``Popen`` did not return is nobody's. Signals are held by a handler,
    since a command would inherit a mask; Python runs handlers in the main thread alone.
    """
    held: list[int] = []
    with contextlib.ExitStack() as restored:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if callable(handler := signal.getsignal(number)):
                    restored.callback(signal.signal, number, handler)
                    signal.signal(number, lambda number, _: held.append(number))
        yield
    for one in held:
        signal.raise_signal(one)


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


def _end(process: subprocess.Popen[bytes]) -> None:
    _kill_group(process)
    process.wait()
    _living.discard(process)
    for pipe in (process.stdout, process.stdin):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def kill_all() -> None:
    """Kill every process that runs now, in any thread, with its whole group."""
    with _spawning:
        for process in list(_living):
            _kill_group(process)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def which(program: str) -> str | None:
    """Return the path of ``program`` on PATH (sbin included), or None."""
    path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    return shutil.which(program, path=path)
