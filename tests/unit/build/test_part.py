"""A kept output directory is trusted only where nothing but the source failed in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.build import part
from harness.build.tree import Tree
from harness.build.workplace import Limit, Workplace, kept_log, read_order
from harness.container.host import HostEngine
from harness.container.image import Image
from harness.errors import BuildError, InfraError
from harness.progress import silent
from harness.variant import Platform, variant

ORDER = read_order(
    Tree(Path("/somewhere"), "1234", "linux"),
    variant(Platform.NATIVE, "small"),
    Image("toolchain:1", {}, created=False),
    Limit(),
)


@pytest.fixture(autouse=True)
def room(monkeypatch) -> None:
    monkeypatch.setattr(part, "SPACE", 1)


def _opened(directory: Path, failure: BaseException | None = None) -> list[str]:
    """Open it, say what was there, and leave something behind; or fail."""
    with part.opened(HostEngine(), ORDER, directory, silent) as place:
        assert isinstance(place, Workplace)
        there = sorted(path.name for path in place.out.iterdir())
        (place.out / "x.o").touch()
        place.log.write_text("a log")
        if failure is not None:
            raise failure
    return there


def test_what_was_made_is_kept(tmp_path) -> None:
    """The next one finds it."""
    assert _opened(tmp_path / "kept") == []
    assert _opened(tmp_path / "kept") == ["x.o"]


def test_a_source_that_does_not_build_is_no_harm(tmp_path) -> None:
    """make deletes what it could not finish; the log is kept."""
    with pytest.raises(BuildError):
        _opened(tmp_path / "kept", BuildError("error: x.c"))

    assert _opened(tmp_path / "kept") == ["x.o"]
    assert kept_log(ORDER).read_text() == "a log"


@pytest.mark.parametrize("failure", [InfraError("disk full"), KeyboardInterrupt()])
def test_whatever_else_fails_leaves_poison(tmp_path, failure) -> None:
    """It is deleted whole."""
    with pytest.raises(type(failure)):
        _opened(tmp_path / "kept", failure)

    assert not (tmp_path / "kept").exists()


def test_a_kill_leaves_poison(tmp_path) -> None:
    """Nobody could delete it then: the next one does."""
    _opened(tmp_path / "kept")
    (tmp_path / "kept" / "busy").touch()

    assert _opened(tmp_path / "kept") == []
