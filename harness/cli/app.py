"""App: the ``orc-harness`` command, its errors and exit codes.

A subcommand's module is imported when it is called, since what one command needs
(Docker, QEMU) makes all others slow to start.
"""

from __future__ import annotations

import errno
import importlib
import inspect
import os
import signal
import sys
import traceback
from types import FrameType
from typing import Annotated

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption
from typer.main import get_command

from harness import cache, config_file, network
from harness import run as run_door
from harness.cli.console import ERR, OUT
from harness.cli.examples import epilog
from harness.errors import ExitCode, HarnessError

INTERRUPTED = 130
READER_GONE = 141  # as of who is ended by SIGPIPE
_OF_A_PATH = (
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)
STEPS = ("bisect-step", "config-bisect-step")
STEP_ABORT = 128
# Each is a module beside this one; the words are the first of its own help.
COMMANDS = {
    "doctor": "Tell what this machine can and cannot do, why, and the command that "
    "mends it.",
    "build": "Build kernels in containers; print where each one's artifacts are.",
    "extract": "Show the ORC format, tables and patch sites of kernel files; or save "
    "them.",
    "validate": "Validate ORC against every alternative: no Docker, no source tree "
    "needed.",
    "patch": "Patch a kernel's text as a platform does when it boots; write it, or "
    "check it.",
    "show": "Show code as the unwinder sees it: bytes, text, the ORC state, what "
    "follows.",
    "explain": "Explain a finding: its rule, its evidence, and what is known about it.",
    "report-fp": "Cut a finding out of its file as one small reproducer.",
    "baseline": "Keep findings that are looked into from being new; every entry "
    "expires.",
    "boot": "Boot a kernel that is built already, under QEMU; judge it by its "
    "evidence.",
    "readback": "Read a running kernel's text, or a dump's; predict every byte of it.",
    "run": "Build, validate, boot and compare kernels; print one table; write report/.",
    "matrix": "Run the matrix of kernels and machines; make only the cells that changed.",
    "bisect": "Find the commit that made a finding; write a report that can be mailed.",
    "bisect-step": "Say whether the commit that is checked out has a finding: git bisect "
    "run this.",
    "config-bisect": "Find the Kconfig options that make a finding; write a report that "
    "can be mailed.",
    "config-bisect-step": "Say whether one configuration has a finding, by the exit code.",
    "report": "Print a saved result; exit as its run did.",
    "history": "List the runs in the store, or what became of their numbers.",
    "diff": "Tell two runs apart: which findings are new, known, fixed or unseen.",
    "corpus": "Measure the verifier: mutants of a kernel, plants in its source, "
    "objects.",
    "cache": "Show what the cache holds; prune it by age and size; update what is "
    "Debian's.",
}
# Those that may fetch images and sources, and use what is in the cache for long.
FETCHING = (
    "build",
    "boot",
    "readback",
    "run",
    "matrix",
    "bisect",
    "bisect-step",
    "config-bisect",
    "config-bisect-step",
    "corpus",
)
HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}


class _Group(TyperGroup):
    """The commands by name and words; the one that is called is loaded."""

    def resolve_command(  # type: ignore[override] # typer has no public base
        self, ctx: typer.Context, args: list[str]
    ) -> tuple[str | None, TyperCommand | None, list[str]]:
        name, _, rest = super().resolve_command(ctx, args)
        if not name:
            return name, None, rest
        command = load_command(name)
        if not ctx.resilient_parsing:  # that is completion
            if name in FETCHING:
                cache.hold()
            ctx.default_map = {name: _defaults(command)}
        return name, command, rest


def load_command(name: str) -> TyperCommand:
    """Import the command ``name`` and return it."""
    alone = typer.Typer(add_completion=False, context_settings=HELP_OPTIONS)
    module = importlib.import_module(f"harness.cli.{name.replace('-', '_')}")
    words = flowing(module.command.__doc__)
    alone.command(name, help=words, epilog=epilog(name))(module.command)
    command = get_command(alone)
    assert isinstance(command, TyperCommand)
    if name in FETCHING:
        command.params.append(_offline())
    return command


def flowing(text: str) -> str:
    """Return ``text`` with a line for each paragraph: terminals break it as they like."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(" ".join(each.split()) for each in paragraphs)


def _offline() -> TyperOption:
    def forbid(_: object, __: object, offline: bool) -> None:
        if offline:
            network.forbid()

    return TyperOption(
        param_decls=["--offline"],
        is_flag=True,
        expose_value=False,
        envvar=network.OFFLINE,
        callback=forbid,
        help="Fetch nothing; what is not in the cache is an error.",
    )


def _defaults(command: TyperCommand) -> dict[str, object]:
    if config_file.find() is None:
        return {}
    from harness.cli.defaults import defaults

    return defaults(command, list(COMMANDS))


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        OUT.print(f"orc-harness {version('orc-harness')}", markup=False)
        raise typer.Exit


app = typer.Typer(
    cls=_Group,
    name="orc-harness",
    help="Prove that an x86-64 Linux kernel unwinds correctly on every platform "
    "it patches itself for.",
    epilog="Exit codes: 0 clean, 1 new findings, 2 usage, 3 infrastructure, "
    "4 internal error, 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=HELP_OPTIONS,
)


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Say which one this is."
        ),
    ] = False,
) -> None:
    pass


for _name, _words in COMMANDS.items():
    app.command(_name, help=_words)(lambda: None)


class Answered(SystemExit):
    """The exit code is an answer for ``git bisect run``, and no accident."""

    def __init__(self, answer: int) -> None:
        super().__init__(answer)
        self.answer = answer


def main() -> None:
    """Run the command line; every error becomes one message and an exit code.

    ``git bisect run`` takes 0 to 127 for answers: all that is none of them is 128, a
    usage error (2) as well as a pipe that was closed (1).
    """
    if sys.argv[1:2] not in [[step] for step in STEPS]:
        sys.exit(_command())
    code = _step()
    sys.exit(STEP_ABORT if _unwritten() else code)


def _command() -> int:
    code = _exit_code()
    if (why := _unwritten()) is None:
        return code
    if why.errno == errno.EPIPE:
        return READER_GONE
    ERR.print(f"error: what was printed is not written: {why.strerror}", markup=False)
    return ExitCode.INFRASTRUCTURE


def _exit_code() -> int:
    try:
        _main()
    except SystemExit as exc:
        before = exc.__context__  # click's own 1, when it has met a pipe that is closed
        if isinstance(before, OSError) and before.errno == errno.EPIPE:
            return READER_GONE
        return exc.code if isinstance(exc.code, int) else bool(exc.code)
    return 0


def _step() -> int:
    try:
        _main()
    except Answered as exc:
        return exc.answer
    except SystemExit as exc:
        return STEP_ABORT if exc.code else 0  # 0 is --help
    except BaseException:  # noqa: BLE001 - a second accident, while the first was told
        return STEP_ABORT
    return 0


def _unwritten() -> OSError | None:
    """Write what was printed; Python would at its end, and exit with 120 if it cannot."""
    failed = None
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError as exc:
            failed = exc
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return failed


def _main() -> None:
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
            ERR.print("interrupted: nothing was left running here", markup=False)
        raise
    except OSError as exc:
        _refused(exc)
    except Exception:  # noqa: BLE001 - the last resort: one line, and the details kept
        _internal_error()


def _refused(exc: OSError) -> None:
    """Exit for what the system refuses: a path that was named, or the machine's fault."""
    theirs = exc.filename is not None and isinstance(exc, _OF_A_PATH)
    what = exc.strerror or str(exc)
    named = f"{exc.filename}: {what}" if exc.filename is not None else what
    ERR.print(f"error: {named}", markup=False, style="bold red")
    if not theirs:
        ERR.print(f"  hint: {_kept_details('where it was met')}", markup=False)
    sys.exit(ExitCode.USAGE if theirs else ExitCode.INFRASTRUCTURE)


def _internal_error() -> None:
    last = traceback.format_exc().strip().splitlines()[-1]
    ERR.print(
        f"internal error: {last}\n  hint: {_kept_details('report')}", markup=False
    )
    sys.exit(ExitCode.INTERNAL)


def _kept_details(what: str) -> str:
    """Keep the traceback of what is handled now; return ``what`` it is, and where."""
    path = cache.cache_dir() / "internal-error.txt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(traceback.format_exc())
    except OSError as exc:  # the disk may be what failed
        return f"nor can {path} be written: {exc.strerror}"
    return f"{what}: {path}"


def _terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
