"""Driver: a few instructions of ours in the guest, which make many calls in one go.

To resume a guest and to stop it again costs a hundred times what its unwinder takes.
So the calls are listed in its memory, and a loop makes one after the other, until it
comes to a breakpoint. It lies over text that never runs again, where each is put back
when we leave, and returns into a function rather than call it, so that no ``endbr``
has to be there. It changes memory as it makes a call: of a function that stores a word.
"""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Iterator

from harness.boot.gdb import Gdb, UnmappedMemory
from harness.boot.wire import LostGuest
from harness.elf.program import Program
from harness.errors import FormatError

# %rbx: the next call; %ebp: how many are left. Both survive a call.
CODE = bytes.fromhex(
    "488b3b"  # next: mov (%rbx),%rdi
    "488b7308"  # mov 8(%rbx),%rsi
    "488b5310"  # mov 16(%rbx),%rdx
    "31c9"  # xor %ecx,%ecx
    "488d0505000000"  # lea back(%rip),%rax
    "50"  # push %rax
    "ff7318"  # push 24(%rbx)
    "c3"  # ret
    "488903"  # back: mov %rax,(%rbx)
    "4883c320"  # add $32,%rbx
    "ffcd"  # dec %ebp
    "75dc"  # jne next
    "6690"  # end: xchg %ax,%ax
    "488937"  # poke: mov %rsi,(%rdi)
    "c3"  # ret
)
END, POKE = 0x24, 0x26
RECORD = struct.Struct("<4Q")  # %rdi, which becomes the result; %rsi, %rdx, function
MAPPED_S, NAP_S = 5.0, 0.001
_FIRST, _STAYS = ("startup_64", "secondary_startup_64"), ".text"


def place(program: Program) -> int:
    """Return where the driver goes: the first instructions of a CPU, which is up.

    Init text is freed: in 7.2 the boot CPU's are in it (arch/x86/kernel/head_64.S).

    Raises:
        FormatError: there is not enough of them, or no symbol.
    """
    symbols = program.symbols
    seen = []
    for name in _FIRST:
        if (index := symbols.find_index(name)) is None:
            continue
        address, size = int(symbols.address[index]), int(symbols.size[index])
        section = program.section_at(address)
        where = "no section" if section is None else section.name
        if where == _STAYS and size >= len(CODE):
            return address
        seen.append(f"{size} bytes of {name} in {where}")
    raise FormatError(
        f"{program.name} has {', '.join(seen) or 'no ' + ' or '.join(_FIRST)}, "
        f"expected {len(CODE)} in {_STAYS}",
        hint="the probe needs a vmlinux with its symbols (CONFIG_KALLSYMS_ALL)",
    )


@contextlib.contextmanager
def installed(gdb: Gdb, address: int) -> Iterator[None]:
    """Keep the driver at ``address``, with its breakpoint, in the stopped guest.

    It stays in a guest that something went wrong with: nobody asks that one any more.
    """
    before = gdb.read(address, len(CODE))
    gdb.write(address, CODE)
    gdb.insert_breakpoint(address + END)
    yield
    with contextlib.suppress(LostGuest):
        gdb.remove_breakpoint(address + END)
        _until_mapped(gdb, address)
        gdb.write(address, before)


def _until_mapped(gdb: Gdb, address: int) -> None:
    """Let a guest that is on a user's page tables run until it is not.

    Raises:
        UnmappedMemory: it did not come to be.
    """
    if gdb.read_or_none(address, len(CODE)) is not None:
        return  # as it is: who stopped it is the vCPU that is looked at
    deadline = time.monotonic() + MAPPED_S
    while True:
        for number in range(len(gdb.vcpus())):
            gdb.select(number)
            if gdb.read_or_none(address, len(CODE)) is not None:
                return
        if time.monotonic() > deadline:
            raise UnmappedMemory(f"no vCPU has {address:#x} mapped")
        gdb.run_for(NAP_S)
