"""Lists of places that the kernel rewrites: what is missing, what is foreign."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.elf.feature import Features
from harness.elf.load import load, load_together
from harness.elf.program import Program
from harness.finding import Finding
from harness.verify.columns import read_columns
from harness.verify.lints.patch_site import check_patch_sites
from tests.builders.elfwriter import (
    ALLOC,
    EXEC,
    R_64,
    R_PC32,
    R_PLT32,
    SECTION,
    UND,
    UNDEF,
    ElfWriter,
    add_orc,
    call,
)

JMP, CALL, RET = b"\xe9\0\0\0\0", b"\xe8\0\0\0\0", b"\xc3"
RETURN, INDIRECT = "__x86_return_thunk", "__x86_indirect_thunk_rdi"
TRAMPOLINE, KEY = "__SCT__might_resched", "__SCK__might_resched"


class Module:
    """A module's code, piece by piece, and its lists."""

    def __init__(self, *, seen: bool = True) -> None:
        self.text, self.goes, self.lists = bytearray(), [], {}
        self.entry = call(8) if seen else UND

    def code(self, data: bytes, to: str = "") -> int:
        """Append code; a branch goes to the external ``to``. Return its offset."""
        at = len(self.text)
        self.text += data
        if to:
            self.goes.append((at + len(data) - 4, to))
        return at

    def list(self, name: str, rows: Sequence[tuple[int, str, int]]) -> None:
        """Add a table of (offset, key, flags); without a key it has places only."""
        self.lists[name] = rows

    def program(self) -> Program:
        """Return it as an object."""
        return self.writer().program("victim.ko")

    def writer(self) -> ElfWriter:
        """Write it."""
        writer = ElfWriter()
        section = writer.section(".text", bytes(self.text), flags=ALLOC | EXEC)
        local = writer.symbol("", section, kind=SECTION, binding=0)
        writer.symbol("victim", section, 0, len(self.text))
        names = {to for _, to in self.goes}
        names |= {key for rows in self.lists.values() for _, key, _ in rows if key}
        other = {name: writer.symbol(name, UNDEF, kind=0) for name in sorted(names)}
        for at, to in self.goes:
            writer.relocation(section, at, R_PLT32, other[to], -4)
        for name, rows in self.lists.items():
            absolute = name == "__mcount_loc"
            width = 8 if absolute or any(key for _, key, _ in rows) else 4
            table = writer.section(name, struct.pack(f"{width}x") * len(rows))
            for n, (at, key, flags) in enumerate(rows):
                kind = R_64 if absolute else R_PC32
                writer.relocation(table, width * n, kind, local, at)
                if key:
                    writer.relocation(table, 8 * n + 4, R_PC32, other[key], flags)
        add_orc(writer, section, [(0, self.entry), (len(self.text), UND)])
        return writer


def found(module: Module) -> tuple[Finding, ...]:
    """The findings of the check alone."""
    columns = read_columns(module.program(), Features({}, 0, "test"))
    assert columns is not None
    return check_patch_sites(columns).findings


def said(module: Module) -> list[str]:
    """Rules, places and messages."""
    return [f"{f.rule} {f.location}: {f.message}" for f in found(module)]


def returning(*listed: int, seen: bool = True) -> Module:
    """Three returns at 0, 5 and 10, of which some are listed."""
    module = Module(seen=seen)
    for _ in range(3):
        module.code(JMP, RETURN)
    module.list(".return_sites", [(at, "", 0) for at in listed])
    return module


def test_all_returns_are_listed() -> None:
    """One entry per jump to the return thunk."""
    assert said(returning(0, 5, 10)) == []


def test_a_return_is_missing() -> None:
    """BUGS C.1 #15: it stays a jump to the unpatched thunk."""
    expected = f"patch-site/missing victim+0x5: the branch to {RETURN} is not in "
    assert said(returning(0, 10)) == [f"{expected}.return_sites"]


def test_code_that_objtool_has_not_seen() -> None:
    """A function without ORC is a finding of its own: what it lacks is counted."""
    module = returning(0, seen=False)
    assert said(module) == []
    columns = read_columns(module.program(), Features({}, 0, "test"))
    assert columns is not None
    (note,) = check_patch_sites(columns).notes
    assert note == ".return_sites: 2 in code without ORC are not listed"


def test_foreign_returns() -> None:
    """An entry inside an instruction, for another one, and the same twice."""
    (inside,) = said(returning(0, 5, 10, 7))
    assert inside.startswith("patch-site/foreign victim+0x7")
    module = returning(0, 5, 10, 15, 5)
    module.code(JMP, "elsewhere")
    assert [text.split(":")[0] for text in said(module)] == [
        "patch-site/foreign victim+0xf",
        "patch-site/foreign victim+0x5",
    ]


def test_bare_return() -> None:
    """A `ret` in code of calls is none of the compiler's; before int3 it is meant."""
    module = returning(0, 5, 10)
    module.code(RET + b"\xcc" + RET)
    (text,) = said(module)
    assert text.startswith("patch-site/missing victim+0x11: a bare return")


def test_retpolines() -> None:
    """Calls and jumps to an indirect thunk, with or without a padding prefix."""
    module = Module()
    listed = [module.code(b"\x2e" + CALL, INDIRECT), module.code(JMP, INDIRECT)]
    module.list(".retpoline_sites", [(at, "", 0) for at in listed])
    assert said(module) == []
    module.code(CALL, INDIRECT)
    (text,) = said(module)
    assert text.startswith("patch-site/missing victim+0xb")
    module.list(".retpoline_sites", [(at, "", 0) for at in (0, 6, 11, 16)])
    module.code(CALL, "printk")
    assert said(module) == [
        "patch-site/foreign victim+0x10: the entry in .retpoline_sites is for "
        "another instruction"
    ]


def test_calls_with_depth() -> None:
    """Every call of a function but those that other lists have."""
    module = Module()
    one, two = module.code(CALL, "printk"), module.code(CALL, "kfree")
    retpoline = module.code(CALL, INDIRECT)
    module.code(CALL)  # to the next instruction: a function does not start there
    module.list(".call_sites", [(one, "", 0), (two, "", 0)])
    module.list(".retpoline_sites", [(retpoline, "", 0)])
    assert said(module) == []
    module.list(".call_sites", [(one, "", 0)])
    (text,) = said(module)
    assert (
        text == "patch-site/missing victim+0x5: the call of kfree is not in .call_sites"
    )
    module.list(".call_sites", [(one, "", 0), (two, "", 0), (two + 1, "", 0)])
    (text,) = said(module)
    assert text.startswith("patch-site/foreign victim+0x6")


def test_calls_of_fentry() -> None:
    """They are listed all or none: objtool may keep them for ftrace alone."""
    module = Module()
    one, two = module.code(CALL, "__fentry__"), module.code(CALL, "__fentry__")
    other = module.code(CALL, "printk")
    module.list(".call_sites", [(other, "", 0)])
    assert said(module) == []
    module.list(".call_sites", [(one, "", 0), (other, "", 0)])
    (text,) = said(module)
    assert text.startswith(f"patch-site/missing victim+{two:#x}")


def test_traced_functions() -> None:
    """ftrace patches calls of __fentry__, or the NOPs in their place, only."""
    module = Module()
    one, two = module.code(CALL, "__fentry__"), module.code(CALL, "__fentry__")
    nop = module.code(bytes.fromhex("0f1f440000"))
    module.list("__mcount_loc", [(one, "", 0), (two, "", 0), (nop, "", 0)])
    assert said(module) == []
    module.list("__mcount_loc", [(one, "", 0), (two, "", 0), (nop + 3, "", 0)])
    (text,) = said(module)
    assert text.startswith(f"patch-site/foreign victim+{nop + 3:#x}")


def test_static_calls() -> None:
    """A call of a trampoline is listed with its key, a jump as a tail call."""
    module = Module()
    calls = [module.code(CALL, TRAMPOLINE), module.code(CALL, TRAMPOLINE)]
    tail = module.code(JMP, TRAMPOLINE)
    rows = [(at, KEY, 0) for at in calls] + [(tail, KEY, 1)]
    module.list(".static_call_sites", rows)
    assert said(module) == []
    module.list(".static_call_sites", [*rows[:2], (tail, KEY, 0)])
    (text,) = said(module)
    assert text.startswith("patch-site/key victim+0xa: a jump is a tail call")
    module.list(".static_call_sites", [rows[0], rows[2]])
    (text,) = said(module)
    assert text.startswith("patch-site/missing victim+0x5")
    module.list(".static_call_sites", [rows[0], (calls[1], "__SCK__other", 0), rows[2]])
    (text,) = said(module)
    assert text.endswith(f"the call to {TRAMPOLINE} has the key __SCK__other")


def test_seals_and_locks() -> None:
    """A sealed ENDBR is one; a lock is the first prefix, or the second."""
    module = Module()
    endbr = module.code(bytes.fromhex("f30f1efa"))
    lock = module.code(bytes.fromhex("f0480fb111"))
    narrow = module.code(bytes.fromhex("66f00fb111"))
    module.list(".ibt_endbr_seal", [(endbr, "", 0)])
    module.list(".smp_locks", [(lock, "", 0), (narrow, "", 0)])
    assert said(module) == []
    module.list(".ibt_endbr_seal", [(lock, "", 0)])
    module.list(".smp_locks", [(endbr, "", 0)])
    assert [text.split(":")[0] for text in said(module)] == [
        "patch-site/foreign victim+0x4",
        "patch-site/foreign victim",
    ]


def test_no_lists_no_check() -> None:
    """An object without any list has nothing to say."""
    module = Module()
    module.code(RET)
    columns = read_columns(module.program(), Features({}, 0, "test"))
    assert columns is not None
    assert check_patch_sites(columns).counts == {}


def one_of(*pieces: str) -> Module:
    """A module of some ``pieces``, each of which other modules may have otherwise."""
    module, rows = Module(), dict[str, list[tuple[int, str, int]]]()
    for piece in pieces:
        name, _, what = piece.partition(" ")
        to, code = BRANCHES[name]
        if what == "foreign":
            at, to = module.code(CALL, "kfree"), ""
        else:
            at = module.code(code, to)
        if what != "unlisted":
            key = (
                "" if name != "static_call" else "__SCK__odd" if "odd" in what else KEY
            )
            rows.setdefault(f".{name}_sites", []).append((at, key, 0))
    module.code(RET)
    for name, some in rows.items():
        module.list(name, some)
    return module


BRANCHES = {
    "return": (RETURN, JMP),
    "retpoline": (INDIRECT, CALL),
    "static_call": (TRAMPOLINE, CALL),
    "call": ("kfree", CALL),
}
PIECES = [f"{name} {w}" for name in BRANCHES for w in ("listed", "unlisted", "foreign")]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from([*PIECES, "static_call odd"]), min_size=1, max_size=5),
        min_size=2,
        max_size=4,
    )
)
def test_no_module_is_a_witness_for_another(modules: list[list[str]]) -> None:
    """Validated as one program each has the findings that it has alone."""
    with tempfile.TemporaryDirectory() as directory:
        paths = [Path(directory) / f"m{n}.ko" for n in range(len(modules))]
        for path, pieces in zip(paths, modules, strict=True):
            path.write_bytes(one_of(*pieces).writer().build())
        joined, _ = load_together(paths, ".orc_unwind")
        apart = [load(path) for path in paths]

    together, *alone = (
        check_patch_sites(columns).findings
        for program in (joined, *apart)
        if (columns := read_columns(program, Features({}, 0, "test"))) is not None
    )

    assert told(together) == told(finding for some in alone for finding in some)


def told(findings: Iterable[Finding]) -> list[tuple[str, str, int, str]]:
    """Rules, places and messages, in order."""
    return sorted(
        (f.rule, f.location.object, f.location.offset, f.message) for f in findings
    )
