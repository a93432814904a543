"""The command: one clear error for bad input, the right exit code, no traceback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from harness import doctor
from harness.cli import app
from harness.cli import doctor as doctor_command
from tests.builders.elfwriter import ElfWriter

FOREIGN = bytes.fromhex("7f454c460201010000000000000000000100b700") + bytes(44)


def run(*arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness", *map(str, arguments)],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b"\x7fELF", ""),
        (os.urandom(4096), ""),
        (FOREIGN, "AArch64|AARCH64|aarch64|183"),
    ],
    ids=["empty", "truncated", "random", "foreign"],
)
def test_a_bad_file_is_one_error(tmp_path: Path, data: bytes, said: str) -> None:
    """Exit code 2, the file's name, no verdict and no traceback."""
    path = tmp_path / "vmlinux"
    path.write_bytes(data)

    done = run("validate", path)

    assert done.returncode == 2
    assert "ERROR" in done.stdout
    assert "vmlinux" in done.stdout
    assert "PASS" not in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    if said:
        assert any(word in done.stdout for word in said.split("|"))


def test_nothing_there_is_a_usage_error(tmp_path: Path) -> None:
    """The message says what to name instead."""
    done = run("validate", tmp_path / "nowhere")

    assert done.returncode == 2
    assert "does not exist" in done.stderr
    assert "hint:" in done.stderr


def test_no_docker_is_an_infrastructure_error() -> None:
    """Exit code 3, and the command that mends it."""
    done = run("build", "--runtime", "docker", DOCKER_HOST="unix:///nowhere.sock")

    assert done.returncode == 3
    assert "no docker daemon answers" in done.stderr
    assert "./ci/matrix" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_foreign_result_is_refused(tmp_path: Path) -> None:
    """`report` names the file that is not one of ours."""
    (tmp_path / "result.json").write_text("{}")

    done = run("report", tmp_path)

    assert done.returncode == 2
    assert "result.json" in done.stderr


def test_an_object_without_orc_is_no_verdict(tmp_path: Path) -> None:
    """Nothing to validate is neither a finding, nor an error, nor a PASS."""
    path = tmp_path / "empty.o"
    path.write_bytes(ElfWriter().build())

    done = run("validate", path, "--format", "json")

    result = json.loads(done.stdout)
    assert done.returncode == 0
    assert result["stages"][0]["status"] == "SKIP"
    assert "no file carries ORC" in result["stages"][0]["reason"]


@pytest.mark.parametrize("command", app.COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    """--help names the options and exits cleanly."""
    done = run(command, "--help")

    assert done.returncode == 0
    assert "--format" in done.stdout


def test_an_empty_directory_among_others_is_skipped(tmp_path: Path) -> None:
    """/lib/modules/* has some of kernels that are gone: the others are validated."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "core.o").write_bytes(ElfWriter().build())

    done = run("validate", *sorted(tmp_path.iterdir()), "--format", "json")

    reasons = {s["variant"]: s["reason"] for s in json.loads(done.stdout)["stages"]}
    assert done.returncode == 0
    assert reasons["empty"].endswith("empty has no vmlinux, vmlinux.o, bzImage or .ko")
    assert run("validate", tmp_path / "empty").returncode == 2


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """Each has its own row, under the path that people gave."""
    paths = [tmp_path / name / "core.o" for name in "ab"]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(ElfWriter().build())

    done = run("validate", *paths, "--format", "json")

    stages = json.loads(done.stdout)["stages"]
    assert [stage["variant"] for stage in stages] == [str(path) for path in paths]


def test_doctor_exits_with_3_without_containers() -> None:
    """It lists what is missing and the command that mends it."""
    done = run("doctor", DOCKER_HOST="unix:///nowhere.sock", COLUMNS="200")

    assert done.returncode == 3
    assert "./ci/host" in done.stdout


def test_doctor_tells_why_decoding_is_slow() -> None:
    """Without Zydis it says so, why, and which packages mend it."""
    where = {"DOCKER_HOST": "unix:///nowhere.sock", "ORC_HARNESS_DECODER": "capstone"}

    done = run("doctor", "--format", "json", **where)

    (check,) = (
        one for one in json.loads(done.stdout)["data"] if one["name"] == "zydis"
    )
    assert not check["good"]
    assert check["seen"] == "capstone decodes: ORC_HARNESS_DECODER demands it"
    assert "libzydis-dev" in check["mend"]


def test_an_unknown_decoder_is_a_usage_error() -> None:
    """The names that there are are in the message."""
    done = run("doctor", ORC_HARNESS_DECODER="udis86")

    assert done.returncode == 2
    assert "one of capstone, zydis expected" in done.stderr


def shell(line: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run ``line``, in which $H is the harness."""
    return subprocess.run(
        ["bash", "-c", line.replace("$H", f"{sys.executable} -m harness")],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("command", ["--help", "cache", "baseline list"])
def test_a_reader_that_has_gone_is_no_finding(command: str) -> None:
    """`| head` ends before we do: 141, as the shell says of who dies of SIGPIPE."""
    done = shell(f"set -o pipefail; $H {command} | true")

    assert done.returncode in {0, 141}, "all was written before, or not"
    assert done.stderr == ""
    assert (
        shell(f"exec 3>&1; (sleep 1; $H {command}; echo $? >&2) | true").stderr
        == "141\n"
    )


def test_a_full_disk_behind_stdout() -> None:
    """The machine's fault, and said; neither a bug of ours nor Python's 120."""
    done = shell("$H baseline list > /dev/full")

    assert done.returncode == 3
    assert "No space left on device" in done.stderr
    assert "internal error" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A usage error, with what the system said."""
    (tmp_path / "core.o").write_bytes(ElfWriter().build())

    done = run("extract", tmp_path / "core.o", "--output", "/dev/null/x")

    assert done.returncode == 2
    assert done.stderr.startswith("error: /dev/null/x")
    assert "internal error" not in done.stderr


def test_a_cache_that_cannot_be_is_one_error(tmp_path: Path) -> None:
    """Not two tracebacks, and Python's 1, which would be findings."""
    (tmp_path / "file").write_text("")

    done = run("cache", "prune", "--to", "1G", ORC_HARNESS_CACHE=str(tmp_path / "file"))

    assert done.returncode in {2, 3}
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("lacking", sorted(doctor.NEEDED))
def test_doctor_exits_with_3_without_room(
    lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the main job needs is not containers alone; the rest is help."""
    for missing, code in (lacking, 3), ("zydis", 0):
        checks = [
            doctor.Check(name, "", name != missing, "")
            for name in (*doctor.NEEDED, "zydis")
        ]
        monkeypatch.setattr(doctor, "examine", lambda _, checks=checks: checks)
        with pytest.raises(typer.Exit) as exited:
            doctor_command.command()
        assert exited.value.exit_code == code


def test_the_version_is_said() -> None:
    """One line, that a report of a bug can name."""
    done = run("--version")

    assert done.returncode == 0
    assert re.fullmatch(r"orc-harness \d+\.\d+\.\d+\S*\n", done.stdout)


@pytest.mark.parametrize(
    "asked", [("report", "nosuch/"), ("matrix", "--matrix", "nosuch")]
)
def test_what_is_not_there_is_not_misshapen(asked: tuple[str, ...]) -> None:
    """The name, and that it is not there; not what it would have to hold."""
    done = run(*asked)

    assert done.returncode == 2
    assert "No such file or directory" in done.stderr or "there is no" in done.stderr
    assert "Errno" not in done.stderr
    assert "is no result of" not in done.stderr
