"""Objtool: its whole pass over the vmlinux.o that the kernel's build gave it.

It must be a fresh vmlinux.o from before objtool each time: over one that has its
tables already it does nothing, says nothing and looks fast.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.measure import Cost, measure
from harness.elf.file import parse_elf, read_file


@dataclass(frozen=True, slots=True)
class Objtool:
    """A kernel as it was linked before objtool ran, and how objtool ran.

    Attributes:
        out: the output directory of the kernel's build, objects and all.
        before: the vmlinux.o that was linked again.
        command: objtool's argv without the file.
    """

    out: Path
    before: Path
    command: tuple[str, ...]

    def run(self) -> Cost:
        """Run it on a fresh copy and see that it wrote its tables.

        Raises:
            SystemExit: it failed, or left the file as it was.
        """
        fresh = self.before.with_name("vmlinux.o.fresh")
        shutil.copyfile(self.before, fresh)
        cost, _ = measure([*self.command, fresh], cores=1, cwd=self.out)
        if ".orc_unwind" not in _sections(fresh):
            raise SystemExit(f"{shlex.join(self.command)} wrote no .orc_unwind")
        fresh.unlink()
        return cost


def relink(out: Path, scratch: Path) -> Objtool:
    """Link ``out``'s vmlinux.o once more, by the command that kbuild recorded.

    Raises:
        SystemExit: this is no such directory, or its objects are gone.
    """
    recorded = out / ".vmlinux.o.cmd"
    if not recorded.is_file():
        raise SystemExit(f"{recorded} does not exist: name an O= directory of 5.18+")
    line = recorded.read_text().splitlines()[0].partition(":=")[2]
    link, _, objtool = line.partition(" ; ")
    before = scratch / "vmlinux.o"
    argv = [before if word == "vmlinux.o" else word for word in shlex.split(link)]
    done = subprocess.run(argv, cwd=out, capture_output=True, text=True, check=False)
    if done.returncode or ".orc_unwind" in _sections(before):
        raise SystemExit(f"{recorded}: cannot be linked again: {done.stderr[-500:]}")
    return Objtool(out, before, tuple(shlex.split(objtool)[:-1]))


def _sections(path: Path) -> tuple[str, ...]:
    return parse_elf(read_file(path), path.name).names
