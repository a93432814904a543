// SPDX-License-Identifier: GPL-2.0-or-later
#include "rules.h"

void bury(struct stack *stack, uint64_t rsp)
{
	while (top(stack)->slot < rsp) {
		if (top(stack)->kind == ADOPTED)
			convict(top(stack)->by, CLAIM_CFA, 0);
		stack->depth--;
	}
}

void abandon(struct stack *stack, uint64_t last)
{
	while (top(stack)->slot <= last && top(stack)->kind != NOTHING) {
		counts.abandoned += top(stack)->kind == ADOPTED;
		stack->depth--;
	}
}

/* Which stack RSP is on. */

static bool near(const struct cpu *cpu, uint64_t page)
{
	return cpu->stack != &nowhere && page - cpu->page + 1 <= 2;
}

static void settle(struct cpu *cpu, uint64_t rsp)
{
	uint64_t page = page_of(rsp);
	struct stack *owner = stack_at(page);

	if (!owner) {
		owner = near(cpu, page) ? cpu->stack : stack_new();
		stack_owns(owner, page);
	}
	cpu->stack = owner;
	cpu->page = page;
}

/*
 * RSP came to another page. A stack that is not entered where it was left has
 * nothing live on it: it is new, as after a fork, or begins anew, as for interrupts.
 * LEAVE enters it, and pops RBP from there.
 */
void move(struct cpu *cpu, uint64_t rsp)
{
	uint64_t entered = rsp - (cpu->last->flow == PLAIN ? cpu->last->pops : 0);
	struct stack *before = cpu->stack;
	struct stack *owner = stack_at(page_of(rsp));

	if (owner && owner != before && owner->left != entered && near(cpu, page_of(rsp)))
		stack_owns(before, page_of(rsp));	/* it was somebody's once */
	settle(cpu, rsp);
	if (cpu->stack == before)
		return;
	before->left = cpu->rsp;
	if (cpu->stack->left != entered)
		abandon(cpu->stack, UINT64_MAX);
	cpu->stack->link = before;
}

/*
 * Hardware aligns the stack to 16 bytes, then pushes five words and maybe an error
 * code: RSP tells which.
 */
static void enter(struct cpu *cpu, struct insn *insn, uint64_t rsp)
{
	uint64_t frame = rsp + options.bounce + (rsp & 8 ? 0 : 8);

	counts.entries++;
	if (!(rsp >> 63)) {	/* a system call still has the user's stack */
		cpu->stack = &nowhere;
		cpu->page = page_of(rsp);
		return;
	}
	settle(cpu, rsp);
	abandon(cpu->stack, frame);
	stack_push(cpu->stack, frame, HARDWARE, insn);
}

/* How control came to the first instruction of a block. */

static bool is_entry(const struct insn *insn)
{
	return insn->type == TYPE_REGS_PARTIAL || insn->type == TYPE_END_OF_STACK;
}

static bool follows(const struct cpu *cpu, const struct insn *insn, uint64_t rsp)
{
	const struct insn *last = cpu->last;

	if (insn->pc == behind(last) && rsp == cpu->rsp)
		return true;	/* a debugger that plays a device skips calls, too */
	switch (last->flow) {
	case JUMP:
		return insn->pc == last->target || insn->pc == behind(last);
	case JUMP_INDIRECT:
		return rsp == cpu->rsp;
	case CALL:
		return insn->pc == last->target;
	case CALL_INDIRECT:
		return rsp == cpu->rsp - 8;
	case RET:
		return rsp == cpu->rsp + 8 + last->pops;
	default:
		return insn->pc == behind(last) || insn->pc == last->pc;
	}
}

/* After another privilege, or iret, control is where that left off, or enters. */
static bool resumes(const struct cpu *cpu, const struct insn *insn, uint64_t rsp)
{
	if (cpu->last->flow == IRET && cpu->resume.known)
		return insn->pc == cpu->resume.ip && rsp == cpu->resume.sp;
	return !is_entry(insn);
}

/* A ret to the innermost caller took the address from where it had been moved to. */
static void close_moved(struct cpu *cpu, const struct insn *insn)
{
	const struct frame *frame = top(cpu->stack);

	if (frame->kind != CALLED || insn->pc != behind(frame->by))
		return;
	cpu->returned = frame->callee;
	cpu->stack->depth--;
}

void arrive(struct cpu *cpu, struct insn *insn, uint64_t rsp)
{
	const struct insn *last = cpu->last;

	if (!last) {
		settle(cpu, rsp);
	} else if (last->flow == IRET || (last->flow == FAR && insn->pc != behind(last))) {
		if (resumes(cpu, insn, rsp))
			settle(cpu, rsp);
		else
			enter(cpu, insn, rsp);
	} else if (!follows(cpu, insn, rsp) && (!options.nested || is_entry(insn))) {
		enter(cpu, insn, rsp);
	} else if (last->sp_known) {
		counts.misread += rsp != cpu->rsp + last->sp_delta;
	} else if (last->flow == CALL_INDIRECT) {
		top(cpu->stack)->callee = insn->pc;
	} else if (last->flow == RET && cpu->unpaired) {
		close_moved(cpu, insn);
	}
}
