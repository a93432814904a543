"""Code: the kernel and its modules, where a boot had them, and their tables' rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from msgspec import Struct

from harness.boot.shadow.record import ModuleRows
from harness.elf.load import parse
from harness.elf.orc import OrcTable, parse_orc
from harness.elf.program import Program
from harness.errors import InfraError
from harness.finding import Location


class Module(Struct, frozen=True):
    """A module where it was loaded: ``rows`` are those of ``table``, in its order."""

    program: Program
    table: OrcTable
    rows: ModuleRows

    def address(self, loaded: int) -> int | None:
        """Return what is ``loaded`` there in the file; None if it is not this module's."""
        before = np.flatnonzero(self.rows.ip <= np.uint64(loaded))
        if not len(before):
            return None
        row = before[np.argmax(self.rows.ip[before])]
        distance = loaded - int(self.rows.ip[row])
        address = int(self.table.ip[row]) + distance
        section = self.program.section_at(int(self.table.ip[row]))
        return address if section and address < section.end else None


class Code(Struct, frozen=True):
    """The kernel, with its sorted table, and the modules that had one."""

    program: Program
    table: OrcTable
    modules: tuple[Module, ...] = ()

    def state(self, row: int) -> int:
        """Return the packed entry of a row, the kernel's or a module's."""
        owner = self.owner(row)
        if owner is None:
            return self.table.one(row)
        return owner.table.one(row - owner.rows.first_row)

    def owner(self, row: int) -> Module | None:
        """Return the module that a row is of; None if it is the kernel's."""
        before = [m for m in self.modules if m.rows.first_row <= row]
        return max(before, key=lambda m: m.rows.first_row, default=None)

    def location(self, address: int, row: int) -> Location:
        """Name what was at ``address`` when ``row`` held, there or nearby.

        A module may be where another one was, or where its init was.
        """
        if self.program.section_at(address) is None:
            owner = self.owner(row)
            first: tuple[Module, ...] = () if owner is None else (owner,)
            for module in (*first, *reversed(self.modules)):
                if (place := module.address(address)) is not None:
                    return module.program.location(place)
        return self.program.location(address)


def code_of(
    program: Program,
    table: OrcTable,
    files: Mapping[str, bytes],
    loaded: Iterable[ModuleRows],
) -> Code:
    """Return the code of a boot; ``files`` are the modules that the guest was given.

    Raises:
        InfraError: what was loaded is none of them.
    """
    named = {name.removesuffix(".ko").replace("-", "_"): name for name in files}
    modules = []
    for rows in loaded:
        name = named.get(rows.name)
        module = parse(files[name], name, Path(name)) if name else None
        own = None if module is None else parse_orc(module)
        if module is None or own is None or len(own) != len(rows.ip):
            raise InfraError(
                f"the guest loaded {rows.name!r} with {len(rows.ip)} entries, expected "
                f"one of {', '.join(named) or 'no module'}, with those of its file"
            )
        modules.append(Module(module, own, rows))
    return Code(program, table, tuple(modules))
