"""The config file: where it is found, and what it may say."""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness import config_file
from harness.errors import UserError

TEXT = 'tree = "linux"\n[validate]\njobs = 4\n'


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.delenv(config_file.VARIABLE, raising=False)
    path = tmp_path / config_file.NAME
    path.write_text(TEXT)
    (tmp_path / "a/b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a/b")
    return path


def test_it_is_searched_upwards(path):
    """The nearest counts."""
    assert config_file.find() == str(path)
    (path.parent / "a" / config_file.NAME).write_text("")
    assert config_file.find() == str(path.parent / "a" / config_file.NAME)


def test_the_environment_names_another_or_none(path):
    """Scripts want no file that lies about."""
    assert config_file.find({config_file.VARIABLE: ""}) is None
    assert config_file.find({config_file.VARIABLE: "/x.toml"}) == "/x.toml"


def test_shared_options_are_for_whoever_has_them(path):
    """A command's own table is stronger."""
    found = config_file.read(str(path))
    assert found.of("validate", ["jobs"], ["tree"]) == {"jobs": 4}
    assert found.of("run", ["tree", "jobs"], []) == {"tree": "linux"}


def _validated(path):
    found = config_file.read(path)
    found.require_commands(["validate", "run"])
    return found.of("validate", ["jobs"], ["tree"])


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("tre = 1", "tree was meant"),
        ("[validate]\njob = 1", "jobs was meant"),
        ("[validat]\njobs = 1", "validate was meant"),
        ("[validate", "is not TOML"),
    ],
)
def test_a_wrong_name_says_what_was_meant(path, text, meant):
    """It is never passed over."""
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        _validated(str(path))
    assert meant in str(caught.value)
    assert str(path) in str(caught.value)


def test_it_costs_nothing_where_there_is_none(path):
    """Neither tomllib nor pathlib is imported to find out."""
    path.unlink()
    code = (
        "import sys; from harness import config_file; config_file.find();"
        "print(*{'tomllib', 'difflib'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
