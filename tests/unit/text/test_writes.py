"""What an instruction overwrites."""

from __future__ import annotations

import pytest

from harness.text.writes import EVERYTHING, Writes, writes

AX, CX, DX, BX, SI, DI, R9 = 1, 2, 4, 8, 1 << 6, 1 << 7, 1 << 9


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("4889d8", Writes(AX)),  # mov %rbx,%rax
        ("4889542408", Writes(0, 8)),  # mov %rdx,8(%rsp)
        ("668954240c", Writes(0, 2)),
        ("c744240400000000", Writes(0, 4)),  # movl $0,4(%rsp)
        ("4839c3", Writes(0)),  # cmp %rax,%rbx
        ("4839442408", Writes(0)),
        ("31ed", Writes(1 << 5)),  # xor %ebp,%ebp
        ("88e3", Writes(BX)),  # mov %ah,%bl
        ("88dc", Writes(AX)),  # mov %bl,%ah
        ("b401", Writes(AX)),  # mov $1,%ah
        ("41b901000000", Writes(R9)),  # mov $1,%r9d
        ("490fc9", Writes(R9)),  # bswap %r9
        ("0f95c1", Writes(CX)),  # setne %cl
        ("480fc101", Writes(AX, 8)),  # xadd %rax,(%rcx)
        ("f0480fc70f", Writes(AX | DX, 16)),  # lock cmpxchg16b (%rdi)
        ("f7e1", Writes(AX | DX)),  # mul %ecx
        ("f7d9", Writes(CX)),  # neg %ecx
        ("f7c101000000", Writes(0)),  # test $1,%ecx
        ("4895", Writes(AX | 1 << 5)),  # xchg %rax,%rbp
        ("f3aa", Writes(CX | DI)),  # rep stosb
        ("0fa2", Writes(AX | BX | CX | DX)),  # cpuid
        ("0f05", Writes(CX | 1 << 11)),  # syscall
        ("0f01f9", Writes(AX | CX | DX)),  # rdtscp
        ("0f01d9", Writes(AX | CX | DX | SI | DI | 1 << 8 | 1 << 10 | 1 << 11)),
        ("0f01d8", Writes(EVERYTHING)),  # vmrun: the guest's registers
        ("db5c2404", Writes(0, 4)),  # fistpl 4(%rsp)
        ("dfe0", Writes(AX)),  # fnstsw %ax
        ("0f110424", Writes(0, 16)),  # movups %xmm0,(%rsp)
        ("f20f110424", Writes(0, 8)),  # movsd %xmm0,(%rsp)
        ("0f100424", Writes(0)),
        ("660fd6442408", Writes(0, 8)),  # movq %xmm0,8(%rsp)
        ("f30f7e442408", Writes(0)),  # movq 8(%rsp),%xmm0
        ("660f7ec2", Writes(DX)),  # movd %xmm0,%edx
        ("c5fe7f442408", Writes(0, 32)),  # vmovdqu %ymm0,8(%rsp)
        ("c5fe6f442408", Writes(0)),
        ("c5f877", Writes(0)),  # vzeroupper
        ("c5f97ec2", Writes(DX)),  # vmovd %xmm0,%edx
        ("c4e2e3f6c8", Writes(CX | BX)),  # mulx %rax,%rbx,%rcx
        ("c462f9f7cb", Writes(R9)),  # shlx %rax,%rbx,%r9
        ("c4e1fb93d1", Writes(DX)),  # kmovq %k1,%rdx
        ("0f24c0", Writes(EVERYTHING)),  # no opcode
    ],
)
def test_writes(code: str, expected: Writes) -> None:
    """Registers and memory that the encoding says are written, no others."""
    assert writes(bytes.fromhex(code)) == expected
