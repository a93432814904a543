"""The door to processes: limits, evidence and no survivors."""

from __future__ import annotations

import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness import run
from harness.errors import InfraError


def test_output_and_status_are_returned() -> None:
    """A failing command is a value; both streams are merged."""
    done = run.run(["sh", "-c", "echo out; echo err >&2; exit 3"], timeout_s=10)

    assert (done.returncode, done.output) == (3, "out\nerr\n")


def test_input_is_fed() -> None:
    """More input than a pipe holds does not block."""
    data = b"x" * 1_000_000

    assert run.check(["wc", "-c"], timeout_s=10, stdin=data).strip() == "1000000"


def test_a_failed_check_carries_its_evidence() -> None:
    """The error names the command, the status and the last output."""
    with pytest.raises(InfraError, match=r"(?s)exited with 3.*reason"):
        run.check(["sh", "-c", "echo reason; exit 3"], timeout_s=10)


def test_a_missing_program_is_one_clear_error() -> None:
    """The program is named."""
    with pytest.raises(InfraError, match="cannot run no-such-program"):
        run.run(["no-such-program"], timeout_s=1)


def test_the_deadline_kills_the_whole_group() -> None:
    """Children of the command do not survive it, and the error says the limit."""
    started = time.monotonic()

    with pytest.raises(InfraError, match=r"did not end within 0\.3 s"):
        run.run(["sh", "-c", "sleep 60 & sleep 60"], timeout_s=0.3)

    assert time.monotonic() - started < 10


def test_an_interrupt_kills_the_command(tmp_path: Path) -> None:
    """Ctrl-C in the caller leaves no process behind."""
    pid_file = tmp_path / "pid"
    script = (
        "import pathlib, signal; from harness import run\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        # told by the caller: the command may run before Popen has returned
        f"told = pathlib.Path({str(pid_file)!r}).write_text\n"
        "run.stream(['sh', '-c', 'echo $$; sleep 60'], told, timeout_s=60)\n"
    )
    outer = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-c", script])
    deadline = time.monotonic() + 10
    while not (pid_file.exists() and pid_file.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)

    os.kill(outer, signal.SIGINT)
    os.waitpid(outer, 0)

    killed, deadline = int(pid_file.read_text()), time.monotonic() + 10
    while _is_there(killed):  # until its new parent has seen that it is dead
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_before_the_start_is_over_kills_the_command(number: int) -> None:
    """It runs already, and nobody has it yet: the interrupt waits until somebody does."""
    script = (
        "import os, signal, subprocess, sys; from harness import run\n"
        "def interrupt(number, frame): raise KeyboardInterrupt\n"
        f"signal.signal({int(number)}, interrupt)\n"
        "start = subprocess.Popen\n"
        "def started(*arguments, **options):\n"
        "    process = start(*arguments, **options)\n"
        "    print(process.pid, flush=True)\n"
        f"    signal.raise_signal({int(number)})\n"
        "    return process\n"
        "subprocess.Popen = started\n"
        "try: run.run(['sleep', '600'], timeout_s=600)\n"
        f"except KeyboardInterrupt: print(signal.getsignal({int(number)}) is interrupt)\n"
    )

    done = run.run([sys.executable, "-c", script], timeout_s=120)

    pid, restored = done.output.split()
    assert restored == "True"
    assert not _is_there(int(pid))


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_kill_all_ends_what_other_threads_run(tmp_path: Path) -> None:
    """Both kinds of process die, with their children; later ones may run."""
    script = f"sleep 60 & echo $! > {tmp_path}/pid; wait"
    with (
        ThreadPoolExecutor(1) as pool,
        run.started(["sleep", "60"]) as beside,
    ):
        waiting = pool.submit(run.run, ["sh", "-c", script], timeout_s=60)
        deadline = time.monotonic() + 10
        while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.02)

        run.kill_all()

        assert waiting.result(10).returncode == -signal.SIGKILL
        assert beside.wait(10)
    assert run.run(["true"], timeout_s=10).returncode == 0
