"""ci/nightly, with an orc-harness that only says what it was told."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HARNESS = """\
#!/bin/sh
echo "$*" >> "$LOG"
case "$*" in *"$KILL"*) kill -9 "$PPID"; exit ;; esac
case "$*" in *"$FIND"*) exit 1 ;; esac
case "$*" in *"$BREAK"*) exit 3 ;; esac
"""
NOTHING = "-no-such-argument-"


class Nightly:
    """A checkout that has ci/nightly and nothing else that is real."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log = root / "log"
        scripts = {"ci/host": "", "ci/env": "", "build/venv/bin/orc-harness": HARNESS}
        for name, text in scripts.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text or "#!/bin/sh\n")
            path.chmod(0o755)
        shutil.copy(ROOT / "ci/nightly", root / "ci/nightly")

    def __call__(
        self,
        *arguments: str,
        kill: str = NOTHING,
        find: str = NOTHING,
        broke: str = NOTHING,
    ) -> tuple[int, list[str]]:
        """Run it; return its exit code and what the harness was told."""
        self.log.write_text("")
        done = subprocess.run(
            [self.root / "ci/nightly", *arguments],
            env={
                "PATH": "/usr/bin:/bin",
                "LOG": str(self.log),
                "KILL": kill,
                "FIND": find,
                "BREAK": broke,
            },
            capture_output=True,
            timeout=60,
            check=False,
        )
        return done.returncode, self.log.read_text().splitlines()


@pytest.fixture
def nightly(tmp_path: Path) -> Nightly:
    return Nightly(tmp_path)


def test_every_part_runs(nightly: Nightly) -> None:
    """The matrix is kept, and judged against its last good night."""
    code, told = nightly()

    assert code == 0
    assert (
        f"matrix --nightly --report {nightly.root}/report/nightly/matrix"
        " --store default --baseline last-good --format json"
    ) in told
    assert sum(line.startswith("corpus ") for line in told) == 7
    assert told[0] == "cache update --format json", "before anything is built"
    assert (nightly.root / "report/nightly/matrix.json").exists()


def test_the_worst_is_the_exit_code(nightly: Nightly) -> None:
    """A part that fails stops no other; no verdict is worse than a bad one."""
    code, told = nightly("objects", "matrix", "builds", find="matrix")
    assert (code, len(told)) == (1, 3)
    code, told = nightly("objects", "matrix", "builds", find="matrix", broke="objects")
    assert (code, len(told)) == (3, 3)


def test_a_night_that_is_killed_goes_on(nightly: Nightly) -> None:
    """What was done is not run again, and what it found is not forgotten."""
    parts = ("objects", "matrix", "builds")

    code, told = nightly(*parts, find="objects", kill="matrix")
    assert code == -9
    assert [line.split()[0] for line in told] == ["corpus", "matrix"]

    code, told = nightly(*parts)
    assert [line.split()[0] for line in told] == ["matrix", "corpus"]
    assert code == 1  # of the objects

    code, told = nightly(*parts)
    assert (code, len(told)) == (0, 3)


def test_another_night_is_another(nightly: Nightly) -> None:
    """Other parts begin at their beginning."""
    nightly("objects", "matrix", kill="matrix")

    _, told = nightly("objects", "builds")

    assert len(told) == 2


def test_a_night_of_yesterday_is_over(nightly: Nightly) -> None:
    """By when it began, whenever it was killed: its parts run again."""
    nightly("objects", "matrix", kill="matrix")
    unfinished = nightly.root / "report/nightly/unfinished"
    began = int(time.time()) - 21 * 3600
    unfinished.write_text(
        re.sub(r"began \d+", f"began {began}", unfinished.read_text())
    )

    _, told = nightly("objects", "matrix")

    assert len(told) == 2


def test_a_tree_of_ones_own(nightly: Nightly) -> None:
    """The matrix is built of it, and another tree is another night."""
    (nightly.root / "linux").mkdir()
    code, told = nightly("matrix", "--tree", str(nightly.root / "linux"))

    assert (code, len(told)) == (0, 1)
    assert f" --tree {nightly.root}/linux " in told[0]
    assert nightly("matrix", "--tree", str(nightly.root / "none"))[0] == 2
    assert nightly("matrix", "--tree")[0] == 2


def test_a_host_that_cannot_be_prepared_is_no_finding(nightly: Nightly) -> None:
    """Whatever ci/host exits with."""
    (nightly.root / "ci/host").write_text("#!/bin/sh\nexit 1\n")

    assert nightly("objects") == (3, [])
