"""Cell: one kernel on one machine; a matrix is many of them, listed as products.

``configs/matrix.toml`` names builds of ``builds.toml``, platforms and options, or boots of
``boots.toml``; a user's own file may as well.
"""

from __future__ import annotations

import fnmatch
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from harness.boot.machine import MachineConfig
from harness.corpus import catalog
from harness.corpus.booted import Boot, build_of
from harness.corpus.built import Build
from harness.data import CONFIGS
from harness.errors import FormatError, UserError
from harness.variant import Platform

MATRIX = CONFIGS / "matrix.toml"
DEFAULT = "default"


class Cell(Struct, frozen=True):
    """One kernel on one machine.

    Attributes:
        build: what is built; its name is the cell's as well.
        boot: where it boots, and what it has to say for itself.
        xen_args, kaslr: as in :class:`MachineConfig`.
    """

    build: Build
    boot: Boot
    xen_args: str = ""
    kaslr: bool = False

    @property
    def name(self) -> str:
        """What people call it: ``6.12-clang-xen-mitigations-off``."""
        return self.boot.name

    @property
    def config(self) -> MachineConfig:
        """The machine that it is booted on."""
        return replace(self.boot.config, xen_args=self.xen_args, kaslr=self.kaslr)


class _Option(Struct, frozen=True, forbid_unknown_fields=True):
    cpu: str | None = None
    append: str = ""
    xen_args: str = ""
    kaslr: bool = False
    says: str = ""


class _Set(Struct, frozen=True, forbid_unknown_fields=True):
    builds: tuple[str, ...] = ()
    platforms: tuple[Platform, ...] = (Platform.NATIVE,)
    options: tuple[str, ...] = (DEFAULT,)
    boots: tuple[str, ...] = ()
    nightly: bool = False


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    set: dict[str, _Set]
    option: dict[str, _Option] = field(default_factory=dict)


def read(path: Path = MATRIX) -> tuple[Cell, ...]:
    """Read all cells of ``path``, in its order.

    Raises:
        UserError: it cannot be read.
        FormatError: it is not TOML of that shape, names what is not listed, or two of
            its cells have one name.
    """
    try:
        text = path.read_text()
        file = msgspec.convert(tomllib.loads(text), _File)
    except OSError as exc:
        raise UserError(f"cannot read {path}: {exc.strerror}") from exc
    except ValueError as exc:
        raise FormatError(f"{path} holds no matrix: {exc}") from exc
    cells = tuple(cell for each in file.set.values() for cell in _cells(file, each))
    counted = Counter(cell.name for cell in cells)
    if twice := [name for name, count in counted.items() if count > 1]:
        raise FormatError(f"{path} has {twice[0]} twice")
    return cells


def _cells(file: _File, asked: _Set) -> Iterator[Cell]:
    builds = catalog.read(CONFIGS / "builds.toml", Build)
    for build in _named(builds, asked.builds, "build"):
        for platform in asked.platforms:
            for name in asked.options:
                option = file.option.get(name, _Option() if name == DEFAULT else None)
                if option is None:
                    raise FormatError(f"the matrix has no option {name}")
                yield _cell(build, platform, name, option, asked.nightly)
    boots = catalog.read(CONFIGS / "boots.toml", Boot)
    for boot in _named(boots, asked.boots, "boot"):
        nightly = boot.nightly or asked.nightly
        yield Cell(build_of(boot), replace(boot, nightly=nightly))


def _cell(
    build: Build, platform: Platform, option: str, how: _Option, nightly: bool
) -> Cell:
    parts = (build.name, platform.value, *([option] if option != DEFAULT else ()))
    name = "-".join(parts)
    boot = Boot(
        name,
        build.name,
        platform,
        platform,
        how.cpu,
        how.append,
        how.says,
        nightly or build.nightly,
    )
    made = replace(build, name=name, platform=platform)
    return Cell(made, boot, how.xen_args, how.kaslr)


def _named(
    entries: Iterable[catalog.E], patterns: Sequence[str], kind: str
) -> Iterator[catalog.E]:
    entries = list(entries)
    for pattern in patterns:
        found = [one for one in entries if fnmatch.fnmatchcase(one.name, pattern)]
        if not found:
            raise FormatError(f"the matrix names the {kind} {pattern}; there is none")
        yield from found


def choose(
    cells: Iterable[Cell], patterns: Sequence[str], *, nightly: bool
) -> tuple[Cell, ...]:
    """Return the cells that ``patterns`` name (with ``*``), or all but the nightly.

    ``nightly`` asks for those as well.

    Raises:
        UserError: a pattern names none, or there is none to choose.
    """
    cells = tuple(cells)
    if not patterns:
        usual = tuple(cell for cell in cells if nightly or not cell.boot.nightly)
        if not usual:
            raise UserError(
                f"no cell is chosen: {len(cells)} for the night are all that there are",
                hint="--nightly takes those, too",
            )
        return usual
    chosen: dict[str, Cell] = {}
    for pattern in patterns:
        found = [cell for cell in cells if fnmatch.fnmatchcase(cell.name, pattern)]
        if not found:
            raise UserError(
                f"no cell is called {pattern}",
                hint="orc-harness matrix --nightly --plan lists them",
            )
        chosen |= {cell.name: cell for cell in found}
    return tuple(chosen.values())
