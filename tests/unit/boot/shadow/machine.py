"""Machine: the plugin's rules, executing instructions that a test makes up."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from harness.boot.shadow.equip import SOURCE
from harness.elf.orc import OrcReg, OrcType

_QEMUS = ("nested.c", "output.c", "plugin.c")  # which need QEMU, and glib
COMPILER = shutil.which("cc")
_WORD = ctypes.c_uint64


@functools.cache
def library() -> ctypes.CDLL:
    """Return the rules, compiled for this host."""
    assert COMPILER
    sources = [each for each in SOURCE.glob("*.c") if each.name not in _QEMUS]
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "machine.so"
        subprocess.run(
            [
                *(COMPILER, "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-g"),
                *("-shared", "-fPIC", "-Wl,-Bsymbolic", f"-I{SOURCE}", "-o", made),
                Path(__file__).with_suffix(".c"),
                *sources,
            ],
            check=True,
        )
        loaded = ctypes.CDLL(str(made))
    loaded.place.restype = loaded.verified.restype = loaded.target.restype = _WORD
    loaded.known.restype = loaded.mismatch.restype = ctypes.c_bool
    loaded.table_load.restype = loaded.table_knows.restype = ctypes.c_bool
    return loaded


@dataclass(frozen=True)
class False_:
    """A claim that was found false."""

    pc: int
    count: int
    claimed: int
    truth: int
    returned: int
    claim: int
    row: int


class Machine:
    """One CPU, its memory, and the claims of a table; see ``machine.c``."""

    def __init__(
        self, *, nested: bool = False, bounce: int = 0, bp: bool = False
    ) -> None:
        self.lib = library()
        self.lib.start(nested, _WORD(bounce), bp)
        self._behind = -1

    def write(self, address: int, *words: int) -> None:
        """Put ``words`` into memory."""
        for at, word in enumerate(words):
            self.lib.write_word(_WORD(address + 8 * at), _WORD(word))

    def set(self, reg: OrcReg, value: int) -> None:
        """Set a register that claims are computed from."""
        self.lib.set_register(int(reg), _WORD(value))

    def run(
        self,
        pc: int,
        code: str,
        rsp: int,
        claim: tuple[OrcType, int] = (OrcType.UNDEFINED, 0),
        *,
        reg: OrcReg = OrcReg.SP,
        first: bool = False,
        intra: bool = False,
        executed: int = 0,
        bp: tuple[OrcReg, int] = (OrcReg.UNDEFINED, 0),
    ) -> int:
        """Execute ``code`` (hex) at ``pc``; return how often it has been verified.

        ``executed``: of the code only so many bytes are the instruction's. It starts a
        block if it is not behind the one before, or ``first`` says so.
        """
        data = bytes.fromhex(code)
        size = executed or len(data)
        placed = self.lib.place(_WORD(pc), data, _WORD(len(data)), _WORD(size))
        insn = _WORD(placed)
        self.lib.claim(
            insn, int(claim[0]), int(reg), claim[1], intra, int(bp[0]), bp[1]
        )
        begins = first or pc != self._behind
        self.lib.execute(insn, _WORD(rsp), begins)
        self._behind = pc + len(data) if self.lib.flow(insn) == 0 else -1
        return int(self.lib.verified(insn))

    @property
    def mismatches(self) -> list[False_]:
        """What was found false so far."""
        found: list[False_] = []
        seven = (_WORD * 7)()
        at = 0
        while self.lib.mismatch(_WORD(at), seven):
            found.append(False_(*seven))
            at += 1
        return [one for one in found if one.count]

    def finish(self) -> None:
        """End the boot."""
        self.lib.finish()

    def count(self, name: str) -> int:
        """Return one of ``struct counts``."""
        names = (
            "entries",
            "frames_built",
            "frames_moved",
            "adopted",
            "proved",
            "abandoned",
            "bp_verified",
            "undecided",
            "misread",
            "modules_unread",
        )
        return int((_WORD * len(names)).in_dll(self.lib, "counts")[names.index(name)])
