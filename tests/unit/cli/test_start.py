"""Starting up: a command imports what it needs and nothing more."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli import app
from tests.builders.elfwriter import ET_EXEC, ElfWriter

# Each of them takes longer to import than a small kernel takes to validate.
HEAVY = {
    "docker",
    "junitparser",
    "pytest",
    "elftools",
    "rich.progress",
    "sqlalchemy",
    "jinja2",
    "sarif_om",
}
_IMPORTED = """\
import sys
from harness.cli.app import main
sys.argv = ["orc-harness", *sys.argv[1:]]
try:
    main()
except SystemExit:
    pass
print('MODULES', *sys.modules, file=sys.stderr)
"""


def imported(*arguments: str | Path, text: str = _IMPORTED) -> set[str]:
    """Return the modules that the command has imported when it ends."""
    done = subprocess.run(
        [sys.executable, "-c", text, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(done.stderr.rpartition("MODULES")[2].split())


def test_help_imports_no_command() -> None:
    """Neither a library for data nor a room of ours: the words are in the app."""
    modules = imported("--help")

    assert not modules & (HEAVY | {"numpy", "capstone"})
    rooms = {"matrix", "stages", "verify", "elf", "boot", "container", "report"}
    assert not modules & {f"harness.{room}" for room in rooms}


def test_validate_imports_what_reads_kernels(tmp_path: Path) -> None:
    """numpy it needs; what builds, boots and writes documents it does not."""
    (tmp_path / "empty.ko").write_bytes(ElfWriter().build())
    (tmp_path / "vmlinux").write_bytes(ElfWriter(ET_EXEC).build())

    first, second = (imported("validate", tmp_path) for _ in range(2))

    assert "harness.verify.check" in first
    assert not first & (HEAVY | {"harness.matrix", "harness.boot"})
    # the second answer is from the archive: nothing that judges, nothing that decodes
    assert not second & (HEAVY | {"harness.verify.check", "harness.text", "capstone"})


def test_the_command_line_itself_imports_no_numpy(tmp_path: Path) -> None:
    """What judges is imported by the forerunner, at the same time."""
    (tmp_path / "vmlinux").write_bytes(ElfWriter(ET_EXEC).build())
    text = _IMPORTED.replace("harness.cli.app", "harness.__main__")

    modules = imported("validate", tmp_path, text=text)

    assert "harness.verify.many" in modules
    assert not modules & {"numpy", "harness.elf.program", "harness.verify.check"}


@pytest.mark.parametrize(("name", "words"), app.COMMANDS.items())
def test_the_list_says_what_the_command_says(name: str, words: str) -> None:
    """The line in ``--help`` is the first of the command's own help."""
    command = app.load_command(name)

    assert command.name == name
    assert (
        inspect.cleandoc(command.help or "").split("\n\n")[0].split() == words.split()
    )
