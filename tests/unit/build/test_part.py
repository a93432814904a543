"""A kept output directory is trusted only where nothing but the source failed in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from harness.build import kbuild, part
from harness.build.symbols import Symbols
from harness.build.tree import Tree
from harness.build.workplace import Limit, Order, Workplace, kept_log, read_order
from harness.container.host import HostEngine
from harness.container.image import Image
from harness.container.job import Exit
from harness.errors import BuildError, InfraError
from harness.kconfig import parse_config
from harness.progress import silent
from harness.variant import Platform, from_config, variant

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


class Makes(HostEngine):
    """Stands in for make: it leaves what configuring leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[str] = []

    def run(self, image, argv, *, mounts, **more) -> Exit:
        self.ran.append("configure" if "configure" in argv else argv[-1])
        out = mounts[1].source
        if argv[0] == "make":
            (out / argv[-1]).touch()
        (out / "release").write_text("6.12\n")
        if not (out / "source").is_symlink():
            (out / "source").symlink_to("/nowhere/but/in/the/container")
        return Exit(0)


@pytest.fixture
def whole(tmp_path, monkeypatch) -> Order:
    """An order of one whole .config."""
    monkeypatch.setattr(kbuild, "read_symbols", lambda source: Symbols())
    config = tmp_path / "x.config"
    config.write_text("CONFIG_64BIT=y\n")
    wanted = from_config(config, Platform.NATIVE)
    return read_order(ORDER.tree, wanted, ORDER.image, ORDER.limit)


def test_it_is_configured_again(whole, tmp_path) -> None:
    """make left a link to the source as its container saw it: that is none of ours."""
    for _ in range(2):
        with part.opened(Makes(), whole, tmp_path / "kept", silent) as place:
            assert part.resolve(place).read_text() == "CONFIG_64BIT=y\n"


@pytest.mark.parametrize(("base", "configured"), [("CONFIG_64BIT=y\n", 0), ("", 1)])
def test_what_is_resolved_is_not_configured_again(
    whole, tmp_path, base, configured
) -> None:
    """Unless another configuration is wanted by now."""
    engine = Makes()
    with part.opened(engine, whole, tmp_path / "kept", silent) as place:
        part.resolve(place)
    engine.ran.clear()
    other = replace(whole, base=base)
    with part.opened(engine, other, tmp_path / "kept", silent) as place:
        part.make(place, "x.o", reconfigure=True)
        assert place.config == parse_config(base)

    assert engine.ran.count("configure") == configured
