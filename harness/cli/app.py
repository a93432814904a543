"""App: the ``orc-harness`` command, its errors and exit codes."""

from __future__ import annotations

import signal
import sys
import traceback
from types import FrameType

import typer

from harness import cache
from harness import run as run_door
from harness.cli import boot, build, doctor, extract, report, run, validate
from harness.cli.console import ERR
from harness.errors import ExitCode, HarnessError

INTERRUPTED = 130

app = typer.Typer(
    name="orc-harness",
    help="Prove that an x86-64 Linux kernel unwinds correctly on every platform "
    "it patches itself for.",
    epilog="Exit codes: 0 clean, 1 new findings, 2 usage, 3 infrastructure, "
    "4 internal error, 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (doctor, build, extract, validate, boot, run, report):
    app.command(module.__name__.rpartition(".")[2])(module.command)


def main() -> None:
    """Run the command line; every error becomes one message and an exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        app()
    except HarnessError as exc:
        ERR.print(f"error: {exc}", markup=False, style="bold red")
        sys.exit(exc.exit_code)
    except SystemExit as exc:
        if exc.code == INTERRUPTED:
            run_door.kill_all()  # what an interrupt caught between start and care
            ERR.print("interrupted: nothing was left running", markup=False)
        raise
    except Exception:  # noqa: BLE001 - the last resort: one line, and the details kept
        path = cache.cache_dir() / "internal-error.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(traceback.format_exc())
        last = traceback.format_exc().strip().splitlines()[-1]
        ERR.print(f"internal error: {last}\n  hint: report {path}", markup=False)
        sys.exit(ExitCode.INTERNAL)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
