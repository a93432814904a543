"""Bisecting from the command line: clear errors, and exit codes that git understands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.bisect.answer import Answer, Outcome
from harness.cli import app, bisect_step, config_bisect_step
from harness.errors import InfraError


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


STEPS = {
    "bisect-step": (bisect_step, ()),
    "config-bisect-step": (config_bisect_step, ("--config", "xen")),
}


@pytest.fixture(params=STEPS)
def step(request) -> str:
    """Each command that answers by its exit code."""
    return request.param


def _step(monkeypatch, outcome: Outcome | Exception, name: str) -> object:
    """Run the step in here, which is told that outcome; return the code."""
    module, more = STEPS[name]

    def step(*_: object) -> Answer:
        if isinstance(outcome, Exception):
            raise outcome
        return Answer("c" * 40, outcome, "because")

    monkeypatch.setattr(module.requests, "step", step)
    argv = ["orc-harness", name, "--finding", "K", *more]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as raised:
        app.main()
    return raised.value.code


@pytest.mark.parametrize(
    ("outcome", "code"), [(Outcome.GOOD, 0), (Outcome.BAD, 1), (Outcome.SKIP, 125)]
)
def test_an_answer(monkeypatch, capsys, outcome, code, step) -> None:
    """One line on stdout, and git's exit code."""
    assert _step(monkeypatch, outcome, step) == code
    name = "cccccccccccc" if step == "bisect-step" else "xen"
    assert capsys.readouterr().out == f"{name} is {outcome}: because\n"


@pytest.mark.parametrize(
    "failure",
    [InfraError("no Docker"), RuntimeError("ours"), BrokenPipeError(32, "closed")],
    ids=["machine", "bug", "pipe"],
)
def test_what_is_no_answer_stops_git(monkeypatch, failure, step) -> None:
    """A closed pipe too, for which a command usually exits with 1: bad, to git."""
    assert _step(monkeypatch, failure, step) == 128


def test_a_cache_that_cannot_be_written(monkeypatch, capsys, tmp_path, step) -> None:
    """What went wrong cannot be kept then, and is no finding all the same."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("ORC_HARNESS_CACHE", str(tmp_path / "file"))

    assert _step(monkeypatch, RuntimeError("ours"), step) == 128
    said = " ".join(capsys.readouterr().err.split())
    assert "internal error: RuntimeError: ours" in said
    assert "internal-error.txt be written: " in said


def test_an_accident_while_another_is_told(monkeypatch, step) -> None:
    """A second exception would end Python with 1, which is bad to git."""

    def fails(*_: object, **__: object) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(app.ERR, "print", fails)

    assert _step(monkeypatch, InfraError("no Docker"), step) == 128


_ANSWERS = """
import sys
from harness.bisect import request
from harness.bisect.answer import Answer, Outcome
from harness.cli import app

outcome = sys.argv.pop()
request.step = lambda *_: Answer("c" * 40, Outcome(outcome))
app.main()
"""


@pytest.mark.parametrize("outcome", ["good", "bad", "skip", "unheard"])
@pytest.mark.parametrize("full", ["stdout", "stderr"])
def test_what_cannot_be_printed(full, outcome) -> None:
    """Python would exit with 120 then; an answer that nobody can read is none."""
    argv = [sys.executable, "-c", _ANSWERS, "bisect-step", "--finding", "K", outcome]
    with Path("/dev/full").open("w") as nowhere:
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        done = subprocess.run(argv, **(streams | {full: nowhere}), timeout=120)

    codes = {"good": 0, "bad": 1, "skip": 125} if full == "stderr" else {}
    assert done.returncode == codes.get(outcome, 128)


@pytest.mark.parametrize(
    "arguments",
    [(), ("--no-such-option",), ("--finding", "K", "--tree", "/nowhere")],
)
def test_usage_errors_stop_git(arguments) -> None:
    """Which it would take for bad otherwise."""
    assert run("bisect-step", *arguments).returncode == 128


def test_ends_of_two_platforms() -> None:
    """A boot needs one; the validator does not."""
    ends = ("--good", "native", "--bad", "xen", "--tree", "/nowhere")

    booted = run("config-bisect", *ends, "--oracle", "shadow")

    assert booted.returncode == 2
    assert "is for native, the bad one for xen" in booted.stderr
    assert "no kernel tree" in run("config-bisect", *ends).stderr


@pytest.mark.parametrize(
    ("good", "options", "said"),
    [
        ("/nowhere", (), "'/nowhere' is neither a file nor a variant"),
        ("sparc", (), "native, kvm, xen, vsmp"),
        ("xen+/nowhere", (), "fragment /nowhere of 'xen+/nowhere' does not exist"),
        ("xen", ("--tree", "/nowhere"), "/nowhere is no kernel tree"),
        ("xen", ("--target", "lib/x.c"), "neither vmlinux nor an object"),
    ],
)
def test_no_configuration(good, options, said) -> None:
    """One clear error, before anything is built; exit code 2, and 128 of the step."""
    done = run("config-bisect", "--good", good, "--bad", "native", *options)
    step = run("config-bisect-step", "--config", good, "--finding", "K", *options)

    for ended, code in ((done, 2), (step, 128)):
        assert ended.returncode == code
        assert said in ended.stderr
        assert "Traceback" not in ended.stderr


def test_a_bug_that_starts_before_the_answer(monkeypatch) -> None:
    """The same exit codes of other commands stay what they are."""
    monkeypatch.setattr(sys, "argv", ["orc-harness", "bisect", "--no-such-option"])
    with pytest.raises(SystemExit) as raised:
        app.main()

    assert raised.value.code == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--good", "v9"), "has no commit 'v9'"),
        (("--good", "HEAD", "--target", "lib/x.c"), "neither vmlinux nor an object"),
        (("--good", "HEAD", "--target", "../x.o"), "neither vmlinux nor an object"),
        (("--good", "HEAD"), "is no kernel tree"),
        (("--good", "HEAD", "--oracle", "boot"), "'boot' is not one of"),
        (
            ("--good", "HEAD", "--oracle", "shadow", "--target", "lib/x.o"),
            "--oracle shadow boots a kernel, and --target lib/x.o is an object",
        ),
        (("--good", "HEAD", "--config", "/nowhere"), "does not exist"),
        (("--good", "HEAD", "--rate", "nan"), "--rate nan is no number"),
        (("--good", "HEAD", "--confidence", "nan"), "--confidence nan is no number"),
    ],
)
def test_one_clear_error(tmp_path, options, said) -> None:
    """Before anything is built; exit code 2."""
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    identity = ("-c", "user.name=A", "-c", "user.email=a@b")
    subprocess.run(
        ["git", *identity, "commit", "-q", "--allow-empty", "-m", "x"],
        cwd=tmp_path,
        check=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("GIT_")},
    )

    done = run("bisect", "--tree", tmp_path, *options)

    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
