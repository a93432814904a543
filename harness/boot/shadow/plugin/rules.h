/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Rules: what the parts of a check ask of each other. */
#ifndef RULES_H
#define RULES_H

#include "check.h"

/* ip, cs, flags, sp and ss, as hardware pushes them and iret takes them. */
struct iret_frame {
	uint64_t ip, cs, flags, sp, ss;
};

extern struct stack nowhere;	/* a user's stack, in the first steps of a system call */

/* convict.c: claims that were false, and the control, which is made to be one. */

/* Keep the context of a claim that looks false. */
void suspect(struct cpu *cpu, struct insn *insn, enum claim claim, uint64_t rsp,
	     uint64_t claimed);

/* Say that a claim was false, and what is true, or 0. */
void convict(struct insn *insn, enum claim claim, uint64_t truth);

/* Make a claim that has proved true wrong, so that it must be told of. */
void control_start(struct insn *insn);

/* arrive.c: how control came to an instruction, and which frames are over by that. */

void bury(struct stack *stack, uint64_t rsp);
void abandon(struct stack *stack, uint64_t last);

/* RSP came to another page. */
void move(struct cpu *cpu, uint64_t rsp);

/* The CPU came to the first instruction of a block. */
void arrive(struct cpu *cpu, struct insn *insn, uint64_t rsp);

/* dispute.c: claims that the innermost frame does not bear out. */

void dispute_call(struct cpu *cpu, struct insn *insn, uint64_t rsp, uint64_t slot);
void dispute_regs(struct cpu *cpu, struct insn *insn, uint64_t rsp, uint64_t at,
		  uint64_t offset);

/* claim.c: what an entry claims. */

/* Compute the CFA as unwind_next_frame() does; false if that is not possible. */
bool cfa_of(const struct insn *insn, uint64_t rsp, uint64_t *cfa);

/* Recover the caller's RBP as unwind_next_frame() does; false if that is not possible. */
bool bp_of(const struct insn *insn, uint64_t cfa, uint64_t *bp);

#endif
