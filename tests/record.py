"""Record a kernel's memory for the tests: python -m tests.record BUILD_DIR OUT_DIR.

Other versions are too slow to build and boot wherever tests run, so that what one of
them did to its text is kept: its vmlinux and its memory at the end of its init, both
as ``orc-harness readback --vmcore`` takes them, packed. What the model of patching does
not look at is zeros in both, as long as the verdict stays the same to the last count.
"""

from __future__ import annotations

import argparse
import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from harness import kernel_build
from harness.boot import boot
from harness.boot.gdb import Gdb
from harness.boot.initramfs import Toolbox
from harness.boot.machine import Machine, MachineConfig
from harness.boot.readback.memory import image_sections, memory_of, read_image
from harness.boot.readback.taken import take
from harness.boot.readback.verdict import Verdict, judge
from harness.container import image
from harness.container.engine import connect
from harness.elf.alternative import parse_alternatives
from harness.elf.assemble import Name, Piece, assemble
from harness.elf.feature import Features
from harness.elf.program import Program, Section
from harness.stages.subject import names_of
from harness.text.insn import U8
from harness.text.patch.capability import find_capability
from harness.text.patch.predict import predict
from harness.text.patch.said import said_by
from harness.variant import Platform
from tests.builders.corefile import corefile

NEAR = (16, 64, 256)  # bytes around what is patched that are kept, as many as it takes
PIECE = 64 << 10  # bytes of data that are kept or not

Blank = Callable[[Section, U8], None]
Bools = npt.NDArray[np.bool_]


class ImageMemory:
    """The memory of a kernel that was read before."""

    def __init__(self, image: Program) -> None:
        self._bytes = {s.address: s.data.copy() for s in image.sections if s.data.size}
        self._image = image

    def read(self, address: int, size: int) -> bytes:
        """Return ``size`` bytes."""
        section = self._image.section_at(address)
        assert section is not None
        if not section.data.size:
            return bytes(size)
        at = address - section.address
        return self._bytes[section.address][at : at + size].tobytes()

    def write(self, address: int, data: bytes) -> None:
        """Change it."""
        section = self._image.section_at(address)
        assert section is not None
        at = address - section.address
        self._bytes[section.address][at : at + len(data)] = np.frombuffer(
            data, np.uint8
        )


class Recording:
    """A kernel as it was linked and as it is in memory, with ever less in them."""

    def __init__(self, build: Path, linked: Program, memory: Program) -> None:
        found = kernel_build.find(build)
        self._names = names_of(found.cpufeatures, linked)
        self.linked, self.memory = linked, memory
        self.verdict = self._judged(linked, memory)

    def _judged(self, linked: Program, memory: Program) -> Verdict:
        taken = take(linked, ImageMemory(memory), init=True)
        return judge(taken, self._names, "")

    def blanked(self, blank: Blank) -> bool:
        """Keep what ``blank`` leaves of each section, if the verdict is the same."""
        linked, memory = (_blanked(one, blank) for one in (self.linked, self.memory))
        try:
            same = self._judged(linked, memory).counts == self.verdict.counts
        except Exception:  # noqa: BLE001 # whatever: it was needed
            return False
        if same:
            self.linked, self.memory = linked, memory
        return same

    def reduce(self) -> None:
        """Blank whatever the verdict does not depend on."""
        patched = _patched(self.linked, self.memory, self._names)

        def text(near: int) -> bool:
            kept = {at: _widened(bytes_, near) for at, bytes_ in patched.items()}

            def blank(section: Section, data: U8) -> None:
                if section.executable and section.size > PIECE:
                    data[~kept[section.address]] = 0

            return self.blanked(blank)

        assert any(map(text, NEAR)), "the model looks at text that it does not patch"
        for section in self.linked.sections:
            if not section.executable and section.data.size:
                self._halve(section, 0, section.size)

    def _halve(self, section: Section, first: int, last: int) -> None:
        def blank(one: Section, data: U8) -> None:
            if one.address == section.address:
                data[first:last] = 0

        if self.blanked(blank) or last - first <= PIECE:
            return
        middle = (first + last) // 2
        self._halve(section, first, middle)
        self._halve(section, middle, last)


def _blanked(program: Program, blank: Blank) -> Program:
    def one(section: Section) -> Section:
        if not section.data.size:
            return section
        data = section.data.copy()
        blank(section, data)
        return replace(section, data=data)

    return replace(program, sections=tuple(map(one, program.sections)))


def _widened(changed: Bools, near: int) -> Bools:
    """Tell which bytes lie so ``near`` to one that is ``changed``."""
    return np.asarray(np.convolve(changed, np.ones(2 * near + 1), "same") > 0)


def _patched(linked: Program, memory: Program, names: Features) -> dict[int, Bools]:
    """Return for each section of code which bytes are patched."""
    alternatives = parse_alternatives(linked)
    assert alternatives is not None
    said = said_by(memory, find_capability(linked, alternatives), names)
    prediction = predict(linked, said)
    patched = {}
    for section in linked.executable:
        seen = memory.section_at(section.address)
        changed = prediction.owners(section) >= 0
        if seen is not None and seen.address == section.address:
            changed |= seen.data != section.data
        patched[section.address] = changed
    return patched


def read_booted(build: Path, platform: Platform) -> tuple[Program, Program]:
    """Boot the kernel in ``build``; return it as it was linked, and its memory."""
    found = kernel_build.find(build)
    assert found.bzimage is not None
    seen: list[tuple[Program, Program]] = []

    def look(machine: Machine, gdb: Gdb, program: Program) -> None:
        memory = memory_of(machine, gdb)
        seen.append((program, read_image(program, memory, init=True)))

    kernel = boot.Kernel(found.bzimage, found.kernels[0])
    with connect() as engine:
        toolbox = Toolbox(engine, image.ensure(engine, image.machine()).tag)
        config = MachineConfig(debugged=True)
        with boot.session(toolbox, kernel, platform, config) as session:
            session.start(look)
    return seen[-1]


def vmlinux_of(program: Program) -> bytes:
    """Return ``program`` as a file; its sections keep their order."""
    pieces = [
        Piece(
            s.name,
            s.address,
            s.data.tobytes() or bytes(s.size),
            s.executable,
            s.entsize,
        )
        for s in program.sections
    ]
    place = {section.index: at for at, section in enumerate(program.sections)}
    symbols = program.symbols
    names = [
        Name(
            symbols.name[row],
            int(symbols.address[row]),
            int(symbols.size[row]),
            int(symbols.kind[row]),
            int(symbols.binding[row]),
            place[int(symbols.section[row])],
        )
        for row in range(len(symbols.address))
        if int(symbols.section[row]) in place
    ]
    return assemble(pieces, names)


def core_of(linked: Program, memory: Program) -> bytes:
    """Return what ``memory`` has of the kernel's image as a dump."""
    segments = []
    for section in image_sections(linked, init=True):
        data = memory.read(section.address, section.size).tobytes()
        segments.append((section.address, 0, data))
    return corefile(segments)


def record(build: Path, out: Path, platform: Platform) -> None:
    """Record the kernel in ``build`` as ``out``."""
    recording = Recording(build, *read_booted(build, platform))
    counts = recording.verdict.counts
    assert not recording.verdict.findings, recording.verdict.findings[0].message
    recording.reduce()
    out.mkdir(parents=True, exist_ok=True)
    files = {
        "vmlinux.xz": vmlinux_of(recording.linked),
        "memory.xz": core_of(recording.linked, recording.memory),
    }
    for name, data in files.items():
        (out / name).write_bytes(lzma.compress(data, preset=9))
        print(f"{out / name}: {(out / name).stat().st_size:,} bytes of {len(data):,}")
    print(f"{counts['text_differing']:,} of {counts['text_bytes']:,} bytes differ")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--platform", type=Platform, default=Platform.NATIVE)
    asked = parser.parse_args()
    record(asked.build, asked.out, asked.platform)


if __name__ == "__main__":
    main()
