"""ci/templates: they are what they claim to be, and call what there is."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from harness.cli import app

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = ROOT / "ci/templates"
SCHEMAS = {
    "github-actions.yml": ["--builtin-schema", "vendor.github-workflows"],
    "gitlab-ci.yml": [
        *("--builtin-schema", "vendor.gitlab-ci"),
        *("--data-transform", "gitlab-ci"),
    ],
}


def valid(text: str, name: str, directory: Path) -> bool:
    """Tell whether ``text`` is of the schema that the template ``name`` has."""
    path = directory / name
    path.write_text(
        text.replace("\n.verify:", "\nverify:")
    )  # what is hidden is not read
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", *SCHEMAS[name], str(path)],
        capture_output=True,
        timeout=120,
        check=False,
    )
    return done.returncode == 0


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("github-actions.yml", "runs-on:", "run-on:"),
        ("gitlab-ci.yml", "max: 1", "max: 9"),
    ],
)
def test_the_schema(name: str, good: str, bad: str, tmp_path: Path) -> None:
    """It has that of its host; with a mistake in it, it would not."""
    text = (TEMPLATES / name).read_text()

    assert text.count(good) == 1
    assert valid(text, name, tmp_path)
    assert not valid(text.replace(good, bad), name, tmp_path)


def scripts(path: Path) -> list[str]:
    """Return every piece of shell in ``path``."""
    return list(_scripts(YAML().load(path.read_text())))


def _scripts(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, each in value.items():
            if key in {"run", "script", "before_script", "after_script"}:
                parts = [each] if isinstance(each, str) else each
                yield from (str(part) for part in parts if isinstance(part, str))
            if not isinstance(each, str):
                yield from _scripts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _scripts(each)


def objections(script: str) -> list[str]:
    """Return what ``script`` calls of ours that there is not."""
    found = []
    script = re.sub(r" \$TREE\b", " --tree /", script.replace("\\\n", ""))
    for line in script.splitlines():
        if match := re.search(r"(?:^|\s)(?:\./)?(ci/\w+)(.*)", line):
            found += _script_objections(match[1], shlex.split(match[2]))
        if match := re.search(
            r"orc-harness (?!\.)([a-z-]+)( -.*| last.*| report/.*|$)", line
        ):
            found += _command_objections(match[1], shlex.split(match[2]))
    return found


def _script_objections(name: str, words: list[str]) -> list[str]:
    if not os.access(ROOT / name, os.X_OK):
        return [f"no {name}"]
    if name == "ci/nightly":
        done = subprocess.run(
            [ROOT / name, "--dry-run", *words], capture_output=True, check=False
        )
        return [] if done.returncode == 0 else [f"{name} has no {words}"]
    return _command_objections("run", words) if name == "ci/matrix" else []


def _command_objections(name: str, words: list[str]) -> list[str]:
    if name not in app.COMMANDS:
        return [f"no command {name}"]
    known = {opt for param in app.load_command(name).params for opt in param.opts}
    asked = {word.partition("=")[0] for word in words if word.startswith("--")}
    return [f"{name} has no {option}" for option in sorted(asked - known)]


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_commands_exist(name: str) -> None:
    """Each is of ours, with its options, and bash can read it."""
    every = scripts(TEMPLATES / name)

    assert any("ci/nightly" in script for script in every)
    assert any("orc-harness matrix" in script for script in every)
    assert any("orc-harness report" in script for script in every)
    for script in every:
        assert objections(script) == []
        plain = re.sub(r"\$\{\{.*?\}\}", "x", script)
        subprocess.run(["bash", "-n", "-c", plain], check=True, timeout=10)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("./ci/morning", ["no ci/morning"]),
        ("./ci/nightly mutant", ["ci/nightly has no ['mutant']"]),
        ("./ci/matrix --frobnicate", ["run has no --frobnicate"]),
        ("build/venv/bin/orc-harness retort --x", ["no command retort"]),
        ("orc-harness report last --fromat x", ["report has no --fromat"]),
    ],
)
def test_what_is_not_there_is_seen(script: str, said: list[str]) -> None:
    """A renamed script, part, command or option."""
    assert objections(script) == said


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here"
)
def test_the_units(tmp_path: Path) -> None:
    """systemd takes them; it would not take a setting that it does not know."""
    for path in TEMPLATES.glob("orc-harness-nightly.*"):
        text = path.read_text().replace("/srv/orc-harness", str(ROOT))
        (tmp_path / path.name).write_text(text)
    units = sorted(tmp_path.iterdir())
    assert [unit.suffix for unit in units] == [".service", ".timer"]

    def said() -> str:
        done = subprocess.run(
            ["systemd-analyze", "verify", *units],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        ours = [line for line in done.stderr.splitlines() if "orc-harness" in line]
        return "\n".join(ours)

    assert said() == ""
    units[0].write_text(units[0].read_text().replace("Nice=", "Nicer="))
    assert "Nicer" in said()


def test_the_unit_runs_what_there_is() -> None:
    """The nightly job, with options that it has."""
    text = (TEMPLATES / "orc-harness-nightly.service").read_text()
    (command,) = re.findall(r"^ExecStart=/srv/orc-harness/(.*)$", text, re.MULTILINE)

    assert objections(command) == []
