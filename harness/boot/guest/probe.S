/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Firmware of the guest that finds out whether a KVM works: from reset it goes to
 * long mode with paging on, runs a loop there, and takes an exception. It writes
 * "o" to port 0xe9 at reset and "k" from the exception's handler, then ends QEMU
 * through isa-debug-exit. The loop is long because some hosts (PVM) emulate a kernel's
 * instructions one by one: there a guest gets on, but no kernel ever boots.
 *
 * A flat image of 64 KiB, seen at 0xf0000 and below 4 GiB.
 */

#define BASE		0xf0000
#define EVIDENCE_PORT	0xe9
#define EXIT_PORT	0xf4
#define LOOPS		50000000
#define PML4		0x1000
#define PDPT		0x2000
#define PD		0x3000
#define STACK		0x7000

	.text
	.org 0xe000
	.code16
	.globl start
start:
	movb	$'o', %al
	outb	%al, $EVIDENCE_PORT
	cli
	cld
	xorw	%ax, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	xorl	%eax, %eax
	movw	$PML4, %di
	movw	$(3 * 4096 / 4), %cx
	rep stosl
	movl	$(PDPT + 3), PML4	/* present, writable */
	movl	$(PD + 3), PDPT
	movl	$0x83, PD		/* the first 2 MiB as one page */
	lgdtl	%cs:gdt_register
	lidtl	%cs:idt_register
	movl	%cr4, %eax
	orl	$0x20, %eax		/* PAE */
	movl	%eax, %cr4
	movl	$PML4, %eax
	movl	%eax, %cr3
	movl	$0xc0000080, %ecx	/* EFER.LME */
	rdmsr
	orl	$0x100, %eax
	wrmsr
	movl	%cr0, %eax
	orl	$0x80000001, %eax	/* PG, PE */
	movl	%eax, %cr0
	ljmpl	$8, $(BASE + long_mode)

	.code64
long_mode:
	movl	$16, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %ss
	movl	$STACK, %esp
	movl	$LOOPS, %ecx
1:	push	%rcx
	pop	%rcx
	decl	%ecx
	jnz	1b
	ud2
	jmp	.

invalid_opcode:
	movb	$'k', %al
	outb	%al, $EVIDENCE_PORT
	xorl	%eax, %eax
	outb	%al, $EXIT_PORT
2:	hlt
	jmp	2b

	.balign 8
gdt:
	.quad	0
	.quad	0x00af9b000000ffff	/* 64-bit code */
	.quad	0x00cf93000000ffff	/* data */
gdt_register:
	.word	gdt_register - gdt - 1
	.long	BASE + gdt

	.balign 8
idt:
	.fill	2 * 6, 8, 0
	.word	invalid_opcode, 8
	.byte	0, 0x8e			/* present interrupt gate */
	.word	BASE >> 16
	.long	0, 0
idt_register:
	.word	idt_register - idt - 1
	.long	BASE + idt

	.org 0xfff0
	.code16
	ljmp	$(BASE >> 4), $start	/* to where paging will map the code */
	.org 0x10000
