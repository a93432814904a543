"""Objects: hand-made alternative sites, one per conflict class, judged by two.

They are assembler (``configs/objects/*.S``), assembled in the toolchain image.
objtool of the tree, built there too, writes their tables and says what it thinks;
then we do.
"""

from __future__ import annotations

import enum
import fnmatch
import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from harness.cache import cache_dir
from harness.container.job import Limits, Mount, own
from harness.data import CONFIGS
from harness.elf.load import load
from harness.errors import FormatError, InfraError
from harness.finding import Finding
from harness.progress import Progress
from harness.stages.shop import Shop
from harness.verify.check import check

OBJECTS = CONFIGS / "objects"
ASSEMBLE = Limits(timeout_s=300)

# An object that brings a table is not objtool's any more.
_SCRIPT = r"""
set -eu
src=$1 objects=$2 out=$3
mkdir -p "$out/objtool"
make -s -C "$src/tools/objtool" O="$out/objtool/" > "$out/objtool.log" 2>&1
cd "$objects"
for source in *.S; do
    object=$out/${source%.S}.o
    as -I . -o "$object" "$source"
    if ! objdump -h "$object" | grep -q '\.orc_unwind'; then
        "$out/objtool/objtool" --orc --uaccess "$object" > "${object%.o}.said" 2>&1 ||
            echo "exit status $?" >> "${object%.o}.said"
    fi
done
"""


class Objtool(enum.StrEnum):
    """What objtool has to say."""

    NOISY = "noisy"
    SILENT = "silent"
    UNSEEN = "unseen"


class Expected(Struct, frozen=True):
    """What is known of one object.

    Attributes:
        conflict: the conflict class that it is an example of, a to g.
        objtool: what objtool says.
        rules: patterns of rules, each of which has to find something; if there are
            none, nothing may.
    """

    conflict: str
    objtool: Objtool
    rules: tuple[str, ...]


class Judged(Struct, frozen=True):
    """One object, what was expected, and what both said.

    Attributes:
        objtool: its words, by line.
        findings: ours.
    """

    name: str
    expected: Expected
    objtool: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def good(self) -> bool:
        """Whether both said what was expected."""
        ours = {finding.rule for finding in self.findings}
        rules = self.expected.rules
        found = all(fnmatch.filter(ours, rule) for rule in rules)
        noisy = self.expected.objtool is Objtool.NOISY
        return found and bool(ours) == bool(rules) and bool(self.objtool) == noisy


def read_expected(directory: Path = OBJECTS) -> dict[str, Expected]:
    """Read what is known of the objects in ``directory``, by name.

    Raises:
        FormatError: the table is damaged, or does not name the objects that are there.
    """
    path = directory / "objects.toml"
    try:
        data = tomllib.loads(path.read_text())
        for entry in data.values():
            entry["conflict"] = entry.pop("class")
        expected = msgspec.convert(data, dict[str, Expected])
    except (ValueError, KeyError, AttributeError) as exc:
        raise FormatError(f"{path} is no table of objects: {exc}") from exc
    there = {source.stem for source in directory.glob("*.S")}
    if odd := sorted(there ^ expected.keys()):
        raise FormatError(f"{path} and the .S files disagree on {', '.join(odd)}")
    return expected


def judge(shop: Shop, progress: Progress) -> list[Judged]:
    """Assemble all objects and have both judge them.

    Raises:
        InfraError: they do not assemble, or objtool does not build.
        FormatError: their table is damaged.
    """
    expected = read_expected()
    scratch = Path(tempfile.mkdtemp(dir=_place(), prefix="objects-"))
    try:
        progress("assembling", 0, len(expected))
        _assemble(shop, scratch)
        return list(_judged(scratch, expected))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _place() -> Path:
    place = cache_dir() / "build"
    place.mkdir(parents=True, exist_ok=True)
    return place


def _assemble(shop: Shop, out: Path) -> None:
    own(out, shop.engine.user)
    mounts = (
        Mount(shop.tree.source, "/src"),
        Mount(OBJECTS, "/objects"),
        Mount(out, "/out", writable=True),
    )
    text: list[str] = []
    ended = shop.engine.run(
        shop.toolchain.tag,
        ["sh", "-c", _SCRIPT, "objects", *map(shop.engine.path, mounts)],
        mounts=mounts,
        limits=ASSEMBLE,
        on_text=text.append,
    )
    if ended.returncode:
        log = out / "objtool.log"
        text += [log.read_text()] if log.exists() else []
        tail = "\n".join("".join(text).splitlines()[-15:])
        raise InfraError(f"cannot assemble the objects:\n{tail}")


def _judged(out: Path, expected: dict[str, Expected]) -> Iterator[Judged]:
    for name, known in expected.items():
        said = out / f"{name}.said"
        words = said.read_text().splitlines() if said.exists() else []
        verdict = check(load(out / f"{name}.o"))
        yield Judged(name, known, tuple(words), verdict.findings)
