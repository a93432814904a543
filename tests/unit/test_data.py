"""What comes with us: an installation has all of it."""

from __future__ import annotations

import tomllib
from pathlib import Path

from harness import data

PYPROJECT = data.ROOT / "pyproject.toml"


def test_all_of_it_is_installed_where_it_is_looked_for() -> None:
    """A known finding is no new one for want of configs/known/."""
    installed: set[str] = set()
    said = tomllib.loads(PYPROJECT.read_text())["tool"]["setuptools"]["data-files"]
    for target, patterns in said.items():
        below = Path(target).relative_to("share/orc-harness")
        for pattern in patterns:
            found = [path for path in data.ROOT.glob(pattern) if path.is_file()]
            assert found, pattern
            assert {path.parent for path in found} == {data.ROOT / below}
            installed |= {path.relative_to(data.ROOT).as_posix() for path in found}
    there = {
        path.relative_to(data.ROOT).as_posix()
        for path in data.CONFIGS.rglob("*")
        if path.is_file()
    }

    assert installed == there | {"docs/findings.md"}
