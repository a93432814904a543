"""Third: what drgn makes of a dump, beside the table's unwind of every sleeping task.

drgn has an unwinder of its own. It takes the table of a file with debug information,
and types for a task; a kernel needs neither here: the file is made of the image's table
and an empty unit of DWARF, and an unwind starts at the registers that the task was
switched away with. Both unwinds are by the image's table, so that one which differs tells
of an unwinder, and not of the table.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import struct
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from harness.boot.kernel_text import KernelText, kernel_text
from harness.boot.point import name_of
from harness.boot.readback.dump import DumpMemory
from harness.boot.sleepers import Sleepers, find_sleepers
from harness.boot.stack_info import PAGE_SIZE, stack_layout
from harness.boot.task import Task, TaskLayout, task_layout
from harness.boot.unwind import PT_REGS, PT_REGS_SIZE, Ended, Trace, unwind_inactive
from harness.elf.assemble import Piece, assemble
from harness.elf.orc import ENTRY_SIZE, OrcType, parse_orc
from harness.elf.program import Program
from harness.errors import FormatError, HarnessError

WRONG_BY = 8  # bytes; added to sp_offset
MOST_NOTES = 20
_TABLE = (".orc_header", ".orc_unwind_ip", ".orc_unwind")
_ENTRIES = ".orc_unwind"
# DWARF 4: a unit at abbreviation 0, 8 bytes to an address, of one DIE: code 1
_INFO = struct.pack("<IHIBB", 8, 4, 0, 8, 1)
_ABBREV = bytes([1, 0x11, 0, 0, 0, 0])  # 1: DW_TAG_compile_unit, no children
_KERNEL_CS = 0x10
_BANNER_BYTES = 128


class MissingDrgn(HarnessError):
    """drgn is not installed, or cannot read this kernel: a MISS, not a failure."""


class Opinion(Struct, frozen=True):
    """One task, unwound by the table and by drgn."""

    task: Task
    host: Trace
    drgn: tuple[int, ...]

    @property
    def agrees(self) -> bool:
        """Both see the same frames, as far as we know the text."""
        if self.host.ended is Ended.MODULE:
            return self.drgn[: len(self.host.ips)] == self.host.ips
        return self.drgn == self.host.ips


class Third(Struct, frozen=True):
    """What came of it.

    Attributes:
        counts: how much was unwound, by name.
        notes: where they disagree, and stacks that both find unreliable.
        reason: why it proves nothing, or empty.
    """

    counts: dict[str, int]
    notes: tuple[str, ...]
    reason: str


def third_opinion(program: Program, core: Path, memory: DumpMemory) -> Third:
    """Unwind every sleeping task of ``program`` in ``core`` twice; then the control.

    Raises:
        MissingDrgn: there is no drgn that could.
        FormatError: the dump has no tasks, or ``program`` lacks what finds them.
    """
    drgn = _drgn()
    table = parse_orc(program)
    if table is None:
        raise FormatError(f"{program.name} carries no ORC table to compare with")
    text = kernel_text(program, table)
    layout = task_layout(program, stack_layout(program))
    told = _told(program, memory)
    with _witness(drgn, program, core, told) as witness:
        sleepers = find_sleepers(program, layout, witness.read_many)
        opinions = [
            Opinion(
                task,
                unwind_inactive(
                    task.inactive, text, task.known_stacks, witness.read_word
                ),
                witness.unwind(task, layout, text),
            )
            for task in sleepers.tasks
        ]
    seen: bool | None = None
    if (chosen := _breakable(opinions, text)) is not None:
        opinion, index = chosen
        with _witness(drgn, _broken(program, index), core, told) as witness:
            seen = witness.unwind(opinion.task, layout, text) != opinion.drgn
    return _judged(program, sleepers, opinions, seen)


def _judged(
    program: Program,
    sleepers: Sleepers,
    opinions: Sequence[Opinion],
    seen: bool | None,
) -> Third:
    differ = [opinion for opinion in opinions if not opinion.agrees]
    unreliable = [
        opinion
        for opinion in opinions
        if opinion.agrees
        and not opinion.host.reliable
        and opinion.host.ended is not Ended.MODULE
    ]
    counts = {
        "tasks_asked": len(opinions),
        "tasks_running": sleepers.running,
        "tasks_without_stack": sleepers.without_stack,
        "agree": len(opinions) - len(differ),
        "differ": len(differ),
        "unreliable": len(unreliable),
        "module_on_stack": sum(o.host.ended is Ended.MODULE for o in opinions),
        "frames": sum(len(o.host.frames) for o in opinions),
        "control_reported": int(seen is True),
    }
    notes = [_disagreement(program, opinion) for opinion in differ]
    notes += [
        f"both give up on the task at {opinion.task.address:#x}: {opinion.host.ended}, "
        f"behind {name_of(program, opinion.host.ips, len(opinion.host.ips) - 1)}"
        for opinion in unreliable
    ]
    reason = ""
    if seen is None:
        reason = "control could not run: no task was unwound alike through a caller"
    elif not seen:
        reason = "control did not fail: drgn did not see a wrong entry"
    return Third(counts, tuple(notes[:MOST_NOTES]), reason)


def _disagreement(program: Program, opinion: Opinion) -> str:
    ours, theirs = opinion.host.ips, opinion.drgn
    pairs = enumerate(zip(ours, theirs, strict=False))
    at = next((n for n, (a, b) in pairs if a != b), min(len(ours), len(theirs)))
    return (
        f"drgn disagrees about the task at {opinion.task.address:#x}: frame {at} is "
        f"{name_of(program, theirs, at)}, by the table {name_of(program, ours, at)}"
    )


def _breakable(
    opinions: Sequence[Opinion], text: KernelText
) -> tuple[Opinion, int] | None:
    """Choose an entry that an unwind needs: to break it must be seen."""
    for opinion in opinions:
        for frame in opinion.host.frames:
            if not opinion.agrees or frame.index is None or frame.cfa is None:
                continue
            if text.entry(frame.index).type == OrcType.CALL:
                return opinion, frame.index
    return None


class _Witness:
    # drgn's view of a dump, with the table of a program.

    def __init__(self, drgn: ModuleType, prog: Any) -> None:  # noqa: ANN401 - drgn's
        self._drgn = drgn
        self._prog = prog
        word = prog.int_type("unsigned long", 8, False)
        members = [
            drgn.TypeMember(word, name, bit_offset=8 * offset)
            for name, offset in PT_REGS.items()
        ]
        self._pt_regs = prog.struct_type("pt_regs", PT_REGS_SIZE, members)

    def read_many(self, wanted: Sequence[tuple[int, int]]) -> list[bytes]:
        """Read memory as drgn finds it.

        Raises:
            FormatError: it finds none.
        """
        try:
            return [self._prog.read(address, size) for address, size in wanted]
        except (self._drgn.FaultError, ValueError, OverflowError) as exc:
            raise FormatError(f"drgn cannot read the dump: {exc}") from exc

    def read_word(self, address: int) -> int:
        return int.from_bytes(self.read_many([(address, 8)])[0], "little")

    def unwind(
        self, task: Task, layout: TaskLayout, text: KernelText
    ) -> tuple[int, ...]:
        """Return the addresses that drgn goes through, as far as they are the kernel's.

        It starts where the task was switched away, inside of __switch_to_asm(), which
        is none of its frames; one that has never run, where it will begin.
        """
        inactive = task.inactive
        fresh = inactive.signal
        named = {
            "ip": inactive.ip if fresh else layout.switched,
            "sp": inactive.sp if fresh else inactive.sp - layout.saved - 8,
            "bp": inactive.bp,
            "cs": _KERNEL_CS,
        }
        regs = self._drgn.Object(self._prog, self._pt_regs, named)
        frames = [frame.pc for frame in self._prog.stack_trace(regs)]
        own = frames if fresh else frames[1:]
        return tuple(
            itertools.takewhile(lambda pc: text.holds(pc) or text.in_module(pc), own)
        )


@contextlib.contextmanager
def _witness(
    drgn: ModuleType, program: Program, core: Path, told: str
) -> Iterator[_Witness]:
    """Yield drgn's view of ``core`` with the table of ``program``.

    Raises:
        MissingDrgn: it takes neither.
    """
    with tempfile.NamedTemporaryFile(suffix=".orc") as file:
        file.write(table_file(program))
        file.flush()
        try:
            prog = drgn.Program(vmcoreinfo=told)
            prog.set_core_dump(core)
            module = prog.main_module("kernel", create=True)
            module.try_file(file.name, force=True)
            module.address_ranges = [_image(program)]
            if module.debug_file_status is not drgn.ModuleFileStatus.HAVE:
                raise ValueError("it does not take the kernel's table")
            yield _Witness(drgn, prog)
        except (ValueError, OSError, RuntimeError) as exc:  # the last is most of drgn's
            raise MissingDrgn(
                f"drgn {drgn.__version__} cannot take {core.name}: {exc}"
            ) from exc


def table_file(program: Program) -> bytes:
    """Return a file with debug information, of which only the table says something.

    Raises:
        FormatError: ``program`` has not all of a table.
    """
    pieces = []
    for name in _TABLE:
        section = program.section(name)
        if section is not None:
            pieces.append(Piece(name, section.address, section.data.tobytes()))
    if len(pieces) < len(_TABLE):
        raise MissingDrgn(
            f"{program.name} has no {_TABLE[0]}: drgn would guess what its table means"
        )
    for name, data in ((".debug_info", _INFO), (".debug_abbrev", _ABBREV)):
        pieces.append(Piece(name, 0, data, alloc=False))
    return assemble(pieces, ())


def _broken(program: Program, index: int) -> Program:
    """Return ``program`` with entry ``index`` wrong by WRONG_BY bytes."""
    sections = []
    for section in program.sections:
        if section.name == _ENTRIES:
            data = section.data.copy()
            word = data[ENTRY_SIZE * index :][:2].view("<i2")
            word += WRONG_BY
            section = replace(section, data=data)
        sections.append(section)
    return replace(program, sections=tuple(sections))


def _told(program: Program, memory: DumpMemory) -> str:
    """Return what a kernel tells of itself in VMCOREINFO, if one does.

    Where page tables were not walked for the dump, drgn does; few kernels say where
    they are.
    """
    banner = memory.read(_symbol(program, "linux_banner"), _BANNER_BYTES)
    words = banner.split(b" ")
    if len(words) < 3 or words[:2] != [b"Linux", b"version"]:
        raise FormatError(f"{program.name}: its banner is {banner!r}")
    levels = program.symbols.find("__pgtable_l5_enabled")
    five = levels is not None and any(memory.read(levels, 4))
    return "\n".join(
        (
            f"OSRELEASE={words[2].decode('ascii', 'replace')}",
            f"PAGESIZE={PAGE_SIZE}",
            f"SYMBOL(swapper_pg_dir)={_symbol(program, 'init_top_pgt'):x}",
            f"NUMBER(phys_base)={memory.phys_base}",
            f"NUMBER(pgtable_l5_enabled)={int(five)}",
            "KERNELOFFSET=0",
            "",
        )
    )


def _image(program: Program) -> tuple[int, int]:
    return _symbol(program, "_stext"), _symbol(program, "_einittext")


def _symbol(program: Program, name: str) -> int:
    if (address := program.symbols.find(name)) is None:
        raise FormatError(f"{program.name} has no symbol {name}")
    return address


def _drgn() -> ModuleType:
    try:
        return importlib.import_module("drgn")
    except ImportError as exc:
        raise MissingDrgn(
            f"drgn is not installed: {exc}",
            hint="pip install 'orc-harness[drgn]' for a third opinion on the dump",
        ) from exc
