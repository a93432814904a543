/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Check: at each instruction, what the ORC table claims against what was executed.
 *
 * A claim is an address: of the return address above the frame (call), or of the
 * hardware frame (regs). The truth is told twice, by the call or the exception that
 * put it there and by the ret or iret that takes it.
 */
#ifndef CHECK_H
#define CHECK_H

#include "stack.h"

/* What the machine below has to offer; plugin.c asks QEMU. */
uint64_t machine_register(enum orc_reg reg);
bool machine_read(uint64_t address, void *data, size_t size);

struct options {
	/*
	 * The guest is nested: its memory cannot be read, and other kernels run
	 * between its instructions.
	 */
	bool nested;
	/* Bytes that a hypervisor pushes below the hardware frame. */
	uint64_t bounce;
	/* Compare the caller's RBP with what it was at the call, too. */
	bool bp;
};

struct counts {
	uint64_t entries;	/* exceptions, interrupts and system calls */
	uint64_t frames_built;	/* hardware frames that software wrote */
	uint64_t frames_moved;	/* return addresses that were */
	uint64_t adopted;	/* return addresses that no call pushed ... */
	uint64_t proved;	/* ... and a ret took */
	uint64_t abandoned;	/* ... or nobody ever came back to */
	uint64_t bp_verified;	/* saved RBPs that were what they had been */
	uint64_t undecided;	/* claims without a truth to compare with */
	uint64_t misread;	/* RSP is not what was worked out: our fault */
	uint64_t modules_unread;	/* whose table was not where the kernel has it */
};

/* A claim that was false. What it says of the context is of the first time. */
struct mismatch {
	struct insn *insn;
	enum claim claim;
	uint64_t count;
	uint64_t claimed;	/* the CFA, or RBP */
	uint64_t truth;		/* what it is; 0 if nothing is known to be live */
	uint64_t rsp;
	uint64_t from;		/* the instruction before */
	uint64_t returned;	/* if that was a ret, the function it came back from */
	uint64_t caller;	/* the call that made the innermost frame */
};

/* The control: one entry made wrong after it was found right, then put back. */
struct control {
	struct insn *insn;
	bool seen;
	uint64_t verified;	/* when it was put back */
};

struct cpu {
	struct stack *stack;
	uint64_t page;		/* RSP is in; see page_of() */
	uint64_t rsp;		/* before the last instruction */
	const struct insn *last;
	uint64_t returned;	/* the function that a ret came back from, else 0 */
	bool unpaired;		/* the last ret took no frame that a call made */
	struct {
		uint64_t ip, sp;
		bool known;
	} resume;		/* what the last iret loaded */
};

extern struct options options;
extern struct counts counts;
extern struct control control;
extern struct mismatch *mismatches;
extern size_t mismatch_count;

/* Tell whether it was told of, and true again once it was put back. */
bool control_is_clean(void);

/* Tell whether insn is it and still counted: its claim is, or was, wrong on purpose. */
bool control_holds(const struct insn *insn);

void cpu_init(struct cpu *cpu);

/* The CPU is about to execute insn, which is the first of its block or is not. */
void step(struct cpu *cpu, struct insn *insn, uint64_t rsp, bool first);

/* The machine is about to end. */
void finish(void);

#endif
