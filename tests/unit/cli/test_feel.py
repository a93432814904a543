"""What using the command is like: config file, --offline, help, colours, completion."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli import app
from harness.cli.cache import parse_size
from harness.cli.defaults import OPTIONS
from harness.cli.examples import EXAMPLES
from harness.errors import UserError
from tests.builders.elfwriter import ElfWriter

NOWHERE = {"DOCKER_HOST": "unix:///nowhere.sock"}


def run(
    *arguments: str | Path, cwd: Path | None = None, **environ: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness", *map(str, arguments)],
        env={**os.environ, **environ},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def configured(tmp_path: Path) -> Path:
    """A directory with an object, and a config file above it."""
    (tmp_path / "orc-harness.toml").write_text('format = "json"\n')
    (tmp_path / "below").mkdir()
    (tmp_path / "below/a.o").write_bytes(ElfWriter().build())
    return tmp_path / "below"


def test_the_config_file_is_obeyed(configured: Path) -> None:
    """It is found above; the command line is stronger."""
    assert json.loads(run("validate", "a.o", cwd=configured).stdout)["stages"]
    said = run("validate", "a.o", "--format", "text", cwd=configured)
    assert not said.stdout.startswith("{")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("[validate]\nno-cash = true\n", "no-cache was meant"),
        ("[validate]\nno-cache = 1\n", "true or false was expected"),
        ("toolchian = 1\n", "toolchain was meant"),
        ("[validate]\njobs = 'x'\n", "jobs: 'x' is not a valid int"),
        ("jobs = 2.5\n", "jobs: '2.5' is not a valid int"),
        ("jobs = 0\n", "jobs: 0 is not in the range"),
        ("format = 'jsn'\n", "format: 'jsn' is not one of"),
    ],
)
def test_a_wrong_config_file_is_a_usage_error(
    configured: Path, text: str, meant: str
) -> None:
    """Exit code 2, which file it is, and what was meant."""
    (configured.parent / "orc-harness.toml").write_text(text)

    done = run("validate", "a.o", cwd=configured)

    assert done.returncode == 2
    assert meant in done.stderr
    assert str(configured.parent / "orc-harness.toml") in done.stderr
    assert "Traceback" not in done.stderr


def test_paths_of_the_config_file_are_relative_to_it(configured: Path) -> None:
    """It may lie anywhere above; an option of another command is none of ours."""
    (configured.parent / "orc-harness.toml").write_text(
        'tree = "linux"\n[validate]\nvmlinux = "kernel/vmlinux"\nknown = "mine"\n'
    )

    done = run("validate", "a.o", cwd=configured)

    assert str(configured.parent / "mine") in done.stdout + done.stderr


@pytest.mark.parametrize("how", ["option", "environment"])
def test_offline_nothing_is_fetched(tmp_path: Path, how: str) -> None:
    """What is not in the cache is a clear error, and exit code 3."""
    offline = ["--offline"] if how == "option" else []
    environ = {"ORC_HARNESS_OFFLINE": "1"} if how == "environment" else {}
    script = (
        "import sys; from harness import network; from harness.cli import app\n"
        "from harness import matrix\n"
        "matrix.build_variants = lambda *_: network.require('the source')\n"
        "app.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "build", *offline],
        env={**os.environ, **environ, "ORC_HARNESS_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 3
    assert "the source is not in the cache" in done.stderr


@pytest.mark.parametrize("command", app.COMMANDS)
def test_every_example_is_a_command_line(command: str) -> None:
    """It parses, and --help shows it."""
    loaded = app.load_command(command)
    for example in EXAMPLES[command]:
        words = shlex.split(example)
        words = words[words.index("orc-harness") + 1 :]
        assert words[0] == command
        context = loaded.make_context(command, [*words[1:]], resilient_parsing=False)
        assert context.command is loaded
    assert EXAMPLES[command][0][:60] in run(command, "--help", COLUMNS="120").stdout


def test_every_option_may_stand_at_the_top() -> None:
    """Of whatever command it is: the names are those that there are."""
    every = {
        option.removeprefix("--")
        for name in app.COMMANDS
        for parameter in app.load_command(name).params
        if parameter.param_type_name == "option" and parameter.name != "help"
        for option in parameter.opts
        if option.startswith("--")
    }
    assert every == OPTIONS


def test_an_option_of_another_command_is_none_of_ours(configured: Path) -> None:
    """A line at the top is for those that have it; a table for its command."""
    (configured.parent / "orc-harness.toml").write_text(
        'matrix = "mine.toml"\nscheduler = "tcp://a:1"\n[cache]\nto = "1G"\n'
    )
    assert run("validate", "a.o", cwd=configured).returncode == 0
    assert run("cache", cwd=configured).returncode == 0
    asked = run("cache", "show", "--to", "1G", cwd=configured)
    assert asked.returncode == 2
    assert "show takes no" in asked.stderr


def test_files_that_are_not_said_to_be_paths_are_relative_to_it(
    configured: Path,
) -> None:
    """A store and a baseline are a file, or something else."""
    (configured.parent / "orc-harness.toml").write_text('store = "runs.sqlite"\n')
    assert run("validate", "a.o", cwd=configured).returncode == 0
    assert (configured.parent / "runs.sqlite").exists()
    assert not (configured / "runs.sqlite").exists()

    saved = run("validate", "a.o", "--format", "json", cwd=configured)
    (configured.parent / "accepted.json").write_text(saved.stdout)
    (configured.parent / "orc-harness.toml").write_text('baseline = "accepted.json"\n')
    judged = run("validate", "a.o", cwd=configured)
    assert judged.returncode == 0, judged.stderr


def test_a_cache_in_use_is_not_updated(tmp_path: Path) -> None:
    """Somebody may be building from what would be replaced."""
    there = {"ORC_HARNESS_CACHE": str(tmp_path)}
    with (tmp_path / "in-use.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        done = run("cache", "update", **there)

    assert done.returncode == 3
    assert "is in use: somebody builds or boots with it" in done.stderr
    assert run("cache", "update", "--older-than", "1", **there).returncode == 2


def test_the_cache_is_shown_and_pruned(tmp_path: Path) -> None:
    """Results are on stdout; what is asked for wrongly is a usage error."""
    there = {"ORC_HARNESS_CACHE": str(tmp_path)}
    (tmp_path / "store/x").mkdir(parents=True)
    os.utime(tmp_path / "store/x", (0, 0))

    shown = json.loads(run("cache", "--format", "json", **there).stdout)
    pruned = run("cache", "prune", "--older-than", "1", **there)

    assert [kind["name"] for kind in shown["data"]] == ["builds"]
    assert "1 entries pruned" in pruned.stdout
    assert not (tmp_path / "store/x").exists()
    assert run("cache", "prune", **there).returncode == 2
    assert run("cache", "prune", "--older-than", "nan", **there).returncode == 2


@pytest.mark.parametrize(
    ("text", "size"), [("500M", 500 << 20), ("1.5G", 3 << 29), ("20GiB", 20 << 30)]
)
def test_sizes(text: str, size: int) -> None:
    """As people write them."""
    assert parse_size(text) == size


def test_what_is_no_size_is_refused() -> None:
    """With what one looks like."""
    with pytest.raises(UserError, match="no size"):
        parse_size("lots")


@pytest.mark.parametrize(
    "arguments",
    [("doctor",), ("cache",), ("validate", "a.o"), ("baseline", "list")],
    ids=lambda words: words[0],
)
def test_no_colour_is_printed_where_none_is_wanted(
    configured: Path, arguments: tuple[str, ...]
) -> None:
    """NO_COLOR holds on a terminal, too."""
    (configured.parent / "orc-harness.toml").unlink()
    words = shlex.join([sys.executable, "-m", "harness", *arguments])
    done = subprocess.run(
        ["script", "-qec", words, "/dev/null"],
        env={**os.environ, **NOWHERE, "NO_COLOR": "1", "TERM": "xterm-256color"},
        cwd=configured,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.stdout
    assert "\x1b[3" not in done.stdout.replace("\x1b[3m", "")  # italic is no colour
    assert "\x1b[9" not in done.stdout


def test_progress_goes_to_stderr(configured: Path) -> None:
    """stdout is one JSON document, whatever is drawn meanwhile."""
    done = run("validate", "a.o", "--no-cache", cwd=configured)

    json.loads(done.stdout)
    assert "validating 1 files" in done.stderr


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("orc-harness valid", "validate"),
        ("orc-harness validate --no-c", "--no-cache"),
        ("orc-harness build --variant x", "xen"),
        ("orc-harness build --toolchain boo", "bookworm"),
        ("orc-harness matrix 6.12-gcc12-v", "6.12-gcc12-vsmp"),
    ],
)
def test_bash_completes(tmp_path: Path, line: str, offered: str) -> None:
    """Commands, options and their values, in a real bash."""
    (tmp_path / "orc-harness").write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.argv[0] = '
        '\'orc-harness\'; from harness.__main__ import main; main()" "$@"\n'
    )
    (tmp_path / "orc-harness").chmod(0o755)
    script = (
        'eval "$(orc-harness --show-completion bash)"\n'
        f"COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n"
        "complete -p orc-harness > /dev/null && _orc_harness_completion orc-harness\n"
        'echo "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert offered in done.stdout.split(), done.stderr


@pytest.mark.parametrize(
    "command", sorted(set(app.COMMANDS) - {"doctor"})
)  # it only asks
def test_who_runs_containers_holds_the_cache(command: str) -> None:
    """What is in use is not pruned, and --offline is an option, where images are made."""
    options = {param.name for param in app.load_command(command).params}
    assert (command in app.FETCHING) == ("runtime" in options)


def test_a_terminal_gets_bars() -> None:
    """They are drawn and cleared again; nothing goes wrong in drawing them."""
    draw = "from harness.cli.console import board\n"
    draw += "with board() as lines:\n    lines('kernel')('building', 1, 2)\n"
    master, terminal = os.openpty()
    drawn = subprocess.run(
        [sys.executable, "-c", draw],
        env={**os.environ, "TERM": "xterm"},
        stderr=terminal,
        check=False,
        timeout=60,
    )
    os.close(terminal)
    written = os.read(master, 1 << 16).decode()
    os.close(master)

    assert drawn.returncode == 0, written
    assert "kernel" in written
    assert "1/2" in written


@pytest.mark.parametrize("command", sorted(EXAMPLES))
def test_help_flows(command: str) -> None:
    """A paragraph is broken where the terminal ends, not where our lines do."""
    words = app.load_command(command).help
    assert words is not None
    assert all("\n" not in each for each in words.split("\n\n"))
    assert "orc-harness bisect --" not in words, "examples stand at the end"
