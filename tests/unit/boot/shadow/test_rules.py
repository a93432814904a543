"""The plugin's rules, on instructions that are made up."""

from __future__ import annotations

import pytest

from harness.elf.orc import OrcReg, OrcType
from tests.unit.boot.shadow.machine import COMPILER, Machine

pytestmark = pytest.mark.skipif(not COMPILER, reason="no C compiler on this host")

CALL, REGS, PARTIAL, END = (
    OrcType.CALL,
    OrcType.REGS,
    OrcType.REGS_PARTIAL,
    OrcType.END_OF_STACK,
)
F, G, H = 0xFFFFFFFF81000100, 0xFFFFFFFF81000200, 0xFFFFFFFF81000300
TOP = 0xFFFFC90000004000
USER = (0x401000, 0x33, 0x246, 0x7FFFFFFFE000, 0x2B)
NOP, PUSH, POP, RET, IRET = "90", "55", "5d", "c3", "48cf"
JMP_RAX, CALL_RAX, SYSCALL = "ffe0", "ffd0", "0f05"
MOV_RSP = "4889c4"  # mov %rax, %rsp


def call(pc: int, to: int) -> str:
    return "e8" + (to - pc - 5).to_bytes(4, "little", signed=True).hex()


def called(machine: Machine, rsp: int = TOP - 0x100) -> int:
    """Call G from F with %rsp at ``rsp``; return %rsp in G."""
    machine.run(F, call(F, G), rsp)
    return rsp - 8


def test_a_claim_is_true_where_the_call_put_the_address() -> None:
    """At the first instruction, behind a push, behind a pop, and at the ret."""
    machine = Machine()
    rsp = called(machine)
    assert machine.run(G, PUSH, rsp, (CALL, 8)) == 1
    assert machine.run(G + 1, POP, rsp - 8, (CALL, 16)) == 1
    assert machine.run(G + 2, RET, rsp, (CALL, 8)) == 1
    assert not machine.mismatches


@pytest.mark.parametrize("offset", [0, 16])
def test_a_wrong_offset_is_told_with_the_truth(offset: int) -> None:
    """Too small or too big: neither is where the call put it."""
    machine = Machine()
    rsp = called(machine)
    assert machine.run(G, NOP, rsp, (CALL, offset)) == 0
    (found,) = machine.mismatches
    assert (found.pc, found.claimed, found.truth) == (G, rsp + offset, rsp + 8)


def test_an_address_that_might_be_is_false_when_the_next_claim_is_true() -> None:
    """A claim of an unknown slot within the frame is told of, and of it alone."""
    machine = Machine()
    rsp = called(machine)
    machine.run(G, PUSH, rsp, (CALL, 8))
    machine.run(G + 1, NOP, rsp - 8, (CALL, 8))
    assert machine.run(G + 2, NOP, rsp - 8, (CALL, 16)) == 1
    assert [(one.pc, one.truth) for one in machine.mismatches] == [(G + 1, rsp + 8)]


def test_an_address_that_might_be_is_false_when_no_ret_takes_it() -> None:
    """It is over, and nobody returned through it."""
    machine = Machine()
    rsp = called(machine)
    machine.run(G, PUSH, rsp, (CALL, 8))
    machine.run(G + 1, POP, rsp - 8, (CALL, 8))
    machine.run(G + 2, RET, rsp, (CALL, 8))
    assert [one.pc for one in machine.mismatches] == [G + 1]


def test_an_address_that_might_be_is_false_when_its_task_never_returns() -> None:
    """One entry holds all over a function that never ends: a kernel thread's."""
    machine = Machine()
    rsp = called(machine)
    machine.run(G, PUSH, rsp, (CALL, 8))
    for at in range(1, 5):
        machine.run(G + at, NOP, rsp - 8, (CALL, 8))
    assert not machine.mismatches
    machine.finish()
    assert [(one.pc, one.truth) for one in machine.mismatches] == [(G + 1, rsp + 8)]


def test_a_claim_from_another_register() -> None:
    """%rbp and %r10 hold addresses, an indirect one is read from the stack."""
    machine = Machine()
    rsp = called(machine)
    machine.set(OrcReg.BP, rsp - 8)
    machine.set(OrcReg.R10, rsp + 8)
    machine.write(rsp - 24, rsp - 8)
    assert machine.run(G, NOP, rsp, (CALL, 16), reg=OrcReg.BP) == 1
    assert machine.run(G + 1, NOP, rsp, (CALL, 99), reg=OrcReg.R10) == 1
    indirect = OrcReg.SP_INDIRECT
    assert machine.run(G + 2, NOP, rsp - 24, (CALL, 16), reg=indirect) == 1
    assert not machine.mismatches


@pytest.mark.parametrize(
    ("rsp", "error_code"), [(TOP - 0x100, True), (TOP - 0x108, False)]
)
def test_hardware_aligns_the_frame_it_pushes(rsp: int, error_code: bool) -> None:
    """An entry between two instructions is seen, whatever its handler expects."""
    machine = Machine()
    machine.run(F, NOP, TOP - 0x80)
    frame = rsp + 8 * error_code
    assert machine.run(H, NOP, rsp, (PARTIAL, frame - rsp)) == 1
    assert machine.run(H + 1, NOP, frame - 0x80, (REGS, 0)) == 1
    machine.write(frame, F + 1, 0x10, 0x246, TOP - 0x80, 0x18)
    assert machine.run(H + 2, IRET, frame, (PARTIAL, 0)) == 1
    machine.run(F + 1, NOP, TOP - 0x80)
    assert machine.count("entries") == 1
    assert not machine.mismatches


@pytest.mark.parametrize("code", [JMP_RAX, RET, CALL_RAX])
def test_an_entry_behind_an_indirect_branch(code: str) -> None:
    """Only %rsp tells a handler from where the branch went."""
    machine = Machine()
    rsp = called(machine)
    machine.run(G, code, rsp, (CALL, 8))
    frame = TOP - 0x158
    assert machine.run(H, NOP, frame, (PARTIAL, 0)) == 1
    assert machine.count("entries") == 1


def test_an_exception_on_its_own_stack_leaves_the_other_as_it_was() -> None:
    """After the iret, the frame of the interrupted call is the innermost again."""
    machine = Machine()
    rsp = called(machine)
    machine.run(G, NOP, rsp, (CALL, 8))
    frame = TOP + 0x10000 - 40
    machine.run(H, call(H, F), frame, (PARTIAL, 0))
    machine.run(F, RET, frame - 8, (CALL, 8))
    machine.write(frame, G + 1, 0x10, 0x246, rsp, 0x18)
    machine.run(H + 5, IRET, frame, (PARTIAL, 0))
    assert machine.run(G + 1, RET, rsp, (CALL, 8)) == 1
    assert not machine.mismatches


def syscall(machine: Machine) -> int:
    """Come from a system call to a whole pt_regs; return its address."""
    machine.run(F, SYSCALL, TOP - 0x100)  # any change of privilege will do
    machine.run(H, NOP, 0x7FFFFFFFE000, (END, 0))
    machine.run(H + 1, NOP, TOP)
    return TOP - 0xA8


def test_the_users_registers_are_a_frame_that_software_writes() -> None:
    """Where the words say so; from then on its address is known."""
    machine = Machine()
    regs = syscall(machine)
    machine.write(regs + 0x80, *USER)
    assert machine.run(H + 2, NOP, regs, (REGS, 0)) == 1
    machine.write(regs + 0x80, 0, 0, 0, 0, 0)
    assert machine.run(H + 3, NOP, regs, (REGS, 0)) == 1
    assert not machine.mismatches


def test_registers_that_a_new_program_starts_with() -> None:
    """start_thread() of 6.1 sets the interrupt flag alone; iret sets the fixed one."""
    machine = Machine()
    regs = syscall(machine)
    machine.write(regs + 0x80, 0x401000, 0x33, 0x200, 0x7FFFFFFFE000, 0x2B)
    assert machine.run(H + 2, NOP, regs, (REGS, 0)) == 1
    assert not machine.mismatches


def test_words_that_are_no_registers_are_no_frame() -> None:
    """A kernel address, flags of nobody, or a selector that is none."""
    wrong = ((0, F), (1, 0x10), (2, 0), (2, 2), (2, 0x8202), (3, TOP), (4, 0x18))
    for at, word in wrong:
        machine = Machine()
        regs = syscall(machine)
        machine.write(regs + 0x80, *USER[:at], word, *USER[at + 1 :])
        assert machine.run(H + 2, NOP, regs, (REGS, 0)) == 0
        assert len(machine.mismatches) == 1


def test_users_registers_are_nowhere_but_at_the_bottom() -> None:
    """Below a live frame of the kernel, words that look like them are not."""
    machine = Machine()
    rsp = called(machine)
    machine.write(rsp - 0x100, *USER)
    assert machine.run(G, NOP, rsp - 0x100, (PARTIAL, 0)) == 0
    assert len(machine.mismatches) == 1


def test_a_copy_of_a_hardware_frame_is_one() -> None:
    """The int3 handler makes room above itself that way."""
    words = (F, 0x10, 0x246, TOP - 0x80, 0x18)
    machine = Machine()
    machine.run(F, NOP, TOP - 0x80)
    frame = TOP - 0x108
    machine.run(H, NOP, frame, (PARTIAL, 0))
    machine.write(frame, *words)
    machine.write(frame - 48, *words)
    assert machine.run(H + 1, NOP, frame - 48, (PARTIAL, 0)) == 1
    machine.write(frame - 96, *words[:4], 0)
    assert machine.run(H + 2, NOP, frame - 96, (PARTIAL, 0)) == 0
    assert [one.pc for one in machine.mismatches] == [H + 2]


def enter_and_move(machine: Machine) -> int:
    """Interrupt F, call G, which moves its return address; return pt_regs."""
    machine.run(F, NOP, TOP - 0x80)
    frame = TOP - 0x108
    machine.run(H, PUSH, frame, (PARTIAL, 0))
    machine.run(H + 1, call(H + 1, G), frame - 8, (PARTIAL, 8))
    machine.run(G, NOP, frame - 16, (CALL, 8))
    regs = frame - 0x80
    machine.write(regs - 8, H + 6)
    assert machine.run(G + 1, NOP, regs - 8, (REGS, 8)) == 1
    return regs


def test_a_moved_return_address_is_known_by_its_value() -> None:
    """error_entry builds pt_regs where its return address was."""
    machine = Machine()
    regs = enter_and_move(machine)
    assert machine.run(G + 2, RET, regs - 8, (CALL, 8)) == 1
    assert machine.run(H + 6, NOP, regs, (REGS, 0)) == 1
    assert not machine.mismatches


def test_a_table_that_takes_such_a_call_for_neutral() -> None:
    """The finding of 6.12's idtentry: told with the function that moved the stack."""
    machine = Machine()
    regs = enter_and_move(machine)
    machine.run(G + 2, RET, regs - 8, (REGS, 8))
    machine.write(regs + 8, 1, 2, 3, 4, 5)
    machine.run(H + 6, MOV_RSP, regs, (PARTIAL, 8))
    assert machine.run(H + 9, NOP, regs, (REGS, 0)) == 1
    (found,) = machine.mismatches
    assert (found.pc, found.returned) == (H + 6, G)
    assert found.truth - found.claimed == 0x78


def test_an_interrupt_stack_is_linked_to_the_one_before() -> None:
    """Before its first call the caller's frame is on the other stack, each time."""
    machine = Machine()
    other, at = TOP + 0x20000 - 8, G + 3
    for times, depth in ((1, 0x100), (2, 0x180)):
        rsp = called(machine, TOP - depth)
        machine.run(G, MOV_RSP, rsp, (CALL, 8))
        machine.write(other, rsp)
        reg = OrcReg.SP_INDIRECT
        assert machine.run(at, call(at, H), other, (CALL, 8), reg=reg) == times
        assert machine.run(H, RET, other - 8, (CALL, 8)) == times
        assert machine.run(at + 5, POP, other, (CALL, 8), reg=reg) == times
        assert machine.run(at + 6, RET, rsp, (CALL, 8)) == times
        machine.run(F + 5, NOP, TOP - depth)
    assert not machine.mismatches


def test_leave_enters_the_stack_that_it_pops_from() -> None:
    """As asm_call_on_stack() of 5.10 comes back: what interrupted it is there yet."""
    machine = Machine()
    machine.run(F, NOP, TOP - 0x80)
    frame, other = TOP - 0x108, TOP + 0x20000 - 8
    machine.run(H, call(H, G), frame, (PARTIAL, 0))
    machine.run(G, PUSH, frame - 8, (CALL, 8))
    machine.run(G + 1, MOV_RSP, frame - 16, (CALL, 16))
    machine.set(OrcReg.BP, frame - 16)
    machine.run(G + 4, "c9", other, (CALL, 16), reg=OrcReg.BP)
    assert machine.run(G + 5, RET, frame - 8, (CALL, 8)) == 1
    assert machine.run(H + 5, NOP, frame, (PARTIAL, 0)) == 1
    assert not machine.mismatches


def test_a_new_task_returns_through_a_frame_that_no_call_made() -> None:
    """copy_thread() wrote it; the ret proves the claims that came before."""
    machine = Machine()
    rsp, new = called(machine), TOP + 0x30000 - 0x100
    machine.run(G, MOV_RSP, rsp, (CALL, 8))
    machine.run(G + 3, NOP, new, (CALL, 16))
    machine.run(G + 4, POP, new, (CALL, 16))
    machine.run(G + 5, RET, new + 8, (CALL, 8))
    machine.run(H, NOP, new + 16, (END, 0))
    assert (machine.count("adopted"), machine.count("proved")) == (1, 1)
    assert not machine.mismatches


def test_a_stack_is_resumed_where_it_was_left_and_new_elsewhere() -> None:
    """What lives on a task's stack is gone when another task has its memory."""
    machine = Machine()
    rsp, other = called(machine), TOP + 0x40000 - 0x80
    machine.run(G, MOV_RSP, rsp, (CALL, 8))
    machine.run(G + 3, MOV_RSP, other)
    assert machine.run(G + 6, NOP, rsp, (CALL, 8)) == 1
    machine.run(G + 7, MOV_RSP, rsp, (CALL, 8))
    machine.run(G + 10, MOV_RSP, other)
    assert machine.run(G + 13, NOP, rsp - 0x20, (CALL, 0x28)) == 0
    assert machine.count("adopted") == 1


def test_an_intra_function_call_is_no_frame() -> None:
    """The RSB is filled by calls that nobody returns from."""
    machine = Machine()
    rsp = called(machine)
    machine.run(G, call(G, G + 6), rsp, (CALL, 8), intra=True)
    assert machine.run(G + 6, "4883c408", rsp - 8, (CALL, 16)) == 1
    assert machine.run(G + 10, RET, rsp, (CALL, 8)) == 1
    assert not machine.mismatches


MOV_TO_RSP, MOV_FROM_RSP, MOV_ABOVE = "4c891c24", "4c8b1c24", "894c2408"


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    ("code", "verified"), [(MOV_TO_RSP, 1), (MOV_FROM_RSP, 0), (MOV_ABOVE, 0)]
)
def test_an_intra_function_call_that_is_aimed_elsewhere(
    code: str, verified: int, nested: bool
) -> None:
    """A retpoline writes its target over the address: that is the caller then."""
    machine = Machine(nested=nested)
    rsp = called(machine)
    machine.run(G, call(G, G + 6), rsp, (CALL, 8), intra=True)
    assert machine.run(G + 6, code, rsp - 8, (CALL, 16)) == 1
    assert machine.run(G + 10, JMP_RAX, rsp - 8, (CALL, 8)) == verified
    assert machine.run(G + 0x40, RET, rsp - 8, (CALL, 8)) == verified
    assert machine.run(H, RET, rsp, (CALL, 8)) == 1
    assert len(machine.mismatches) == 2 * (1 - verified)
    assert machine.count("entries") == 0


def test_no_other_word_is_aimed_elsewhere() -> None:
    """Only the word that a call within the function pushed can be aimed elsewhere."""
    machine = Machine()
    rsp = called(machine)
    assert machine.run(G, MOV_TO_RSP, rsp, (CALL, 8)) == 1
    assert machine.run(G + 4, PUSH, rsp, (CALL, 8)) == 1
    assert machine.run(G + 5, NOP, rsp - 8, (CALL, 8)) == 0


def test_a_device_model_that_skips_a_call() -> None:
    """A debugger emulates the function and returns from it: no interrupt."""
    machine = Machine()
    rsp = called(machine)
    machine.run(G, call(G, H), rsp, (CALL, 8))
    assert machine.run(G + 5, RET, rsp, (CALL, 8), first=True) == 1
    assert machine.count("entries") == 0


def test_a_cpuid_that_xen_emulates() -> None:
    """Control goes on behind it; behind any other ud2 it does not."""
    for code, entries in (("0f0b78656e0fa2", 0), ("0f0b90909090", 1)):
        machine = Machine(bounce=16)
        rsp = called(machine)
        machine.run(G, code, rsp, (CALL, 8), executed=2)
        machine.run(G + 7, NOP, rsp, (CALL, 8))
        assert machine.count("entries") == entries


def test_the_control_is_told_of_and_put_back() -> None:
    """After 1000 true claims one is made wrong; it is no mismatch."""
    machine = Machine()
    called(machine)
    jump = "ebfe"
    rsp = TOP - 0x108
    for _ in range(1004):
        machine.run(G, jump, rsp, (CALL, 8))
    assert machine.run(G, jump, rsp, (CALL, 8)) == 1004
    assert not machine.mismatches
    machine.run(G, NOP, rsp, (CALL, 8), first=True)
    assert machine.run(G, jump, rsp, (CALL, 8)) == 1, "its place was let go"


def test_what_a_nested_guest_has_in_memory_is_not_looked_at() -> None:
    """Addresses that hardware told are compared, others are undecided."""
    machine = Machine(nested=True)
    machine.run(F, NOP, TOP - 0x80)
    frame = TOP - 0x108
    machine.write(frame - 48, *USER)
    assert machine.run(H, NOP, frame, (PARTIAL, 0)) == 1
    assert machine.run(H + 1, NOP, frame - 48, (PARTIAL, 0)) == 0
    assert machine.count("undecided") == 1
    assert not machine.mismatches


def test_what_a_hypervisor_pushes_below_the_frame() -> None:
    """Xen gives rcx and r11 to a PV guest's handler."""
    machine = Machine(bounce=16)
    machine.run(F, NOP, TOP - 0x80)
    frame = TOP - 0x108
    machine.run(H, "59", frame - 16, (END, 0))
    machine.run(H + 1, "415b", frame - 8, (END, 0))
    assert machine.run(H + 3, NOP, frame, (PARTIAL, 0)) == 1


def test_a_stack_pointer_that_was_not_worked_out_is_our_fault() -> None:
    """It is counted, so that the run is no verdict."""
    machine = Machine()
    machine.run(F, NOP, TOP - 0x80)
    machine.run(F + 1, NOP, TOP - 0x88, first=True)
    assert machine.count("misread") == 1


def test_the_callers_frame_pointer_is_where_it_was_saved() -> None:
    """In the register, below the CFA, or where the frame pointer points."""
    machine = Machine(bp=True)
    machine.set(OrcReg.BP, 0xBEEF)
    rsp = called(machine)
    machine.run(G, PUSH, rsp, (CALL, 8))
    machine.write(rsp - 8, 0xBEEF)
    saved = (OrcReg.PREV_SP, -16)
    machine.run(G + 1, "4889e5", rsp - 8, (CALL, 16), bp=saved)
    machine.set(OrcReg.BP, rsp - 8)
    machine.run(G + 4, NOP, rsp - 8, (CALL, 16), bp=saved)
    machine.run(G + 5, POP, rsp - 8, (CALL, 16), bp=(OrcReg.BP, 0))
    machine.set(OrcReg.BP, 0xBEEF)
    machine.run(G + 6, RET, rsp, (CALL, 8))
    assert machine.count("bp_verified") == 5
    assert not machine.mismatches


def test_a_frame_pointer_that_is_lost_is_told_of() -> None:
    """The CFA is right, what is there is not: a finding of its own."""
    machine = Machine(bp=True)
    machine.set(OrcReg.BP, 0xBEEF)
    rsp = called(machine)
    machine.set(OrcReg.BP, 1)
    machine.run(G, NOP, rsp, (CALL, 8))
    machine.write(rsp - 8, 2)
    machine.run(G + 1, NOP, rsp, (CALL, 8), bp=(OrcReg.PREV_SP, -16))
    assert [(one.claim, one.claimed, one.truth) for one in machine.mismatches] == [
        (1, 1, 0xBEEF),
        (1, 2, 0xBEEF),
    ]
