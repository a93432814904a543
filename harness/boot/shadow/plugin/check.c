// SPDX-License-Identifier: GPL-2.0-or-later
#include "rules.h"

#define IRET_FRAME_OFFSET 0x80	/* of ip in struct pt_regs */
#define CONTROL_AFTER 1000

struct options options;
struct counts counts;

struct stack nowhere;

void cpu_init(struct cpu *cpu)
{
	if (!nowhere.depth)
		nowhere = *stack_new();
	*cpu = (struct cpu){ .stack = &nowhere };
}

static void judge_bp(struct cpu *cpu, struct insn *insn, uint64_t rsp, uint64_t cfa)
{
	const struct frame *frame = top(cpu->stack);
	uint64_t bp;

	if (!bp_of(insn, cfa, &bp)) {
		counts.undecided++;
	} else if (bp == frame->bp) {
		counts.bp_verified++;
	} else {
		suspect(cpu, insn, CLAIM_BP, rsp, bp);
		convict(insn, CLAIM_BP, frame->bp);
	}
}

static void judge(struct cpu *cpu, struct insn *insn, uint64_t rsp)
{
	const struct frame *frame = top(cpu->stack);
	uint64_t cfa;

	if (insn->type == TYPE_UNDEFINED || insn->type == TYPE_END_OF_STACK) {
		insn->other++;
		return;
	}
	if (!cfa_of(insn, rsp, &cfa)) {
		insn->other++;
		counts.undecided++;
		return;
	}
	if (insn->type == TYPE_CALL) {
		if (frame->slot != cfa - 8 || frame->kind > MOVED) {
			dispute_call(cpu, insn, rsp, cfa - 8);
			return;
		}
		insn->verified++;
		if (options.bp && frame->kind == CALLED)
			judge_bp(cpu, insn, rsp, cfa);
	} else {
		uint64_t offset = insn->type == TYPE_REGS ? IRET_FRAME_OFFSET : 0;

		if (frame->slot == cfa + offset && frame->kind == HARDWARE)
			insn->verified++;
		else
			dispute_regs(cpu, insn, rsp, cfa + offset, offset);
	}
}

/* What the instruction will do to the frames. */

static void leave_by_ret(struct cpu *cpu, uint64_t rsp)
{
	struct frame *frame = top(cpu->stack);

	cpu->returned = 0;
	cpu->unpaired = true;
	if (frame->slot != rsp || frame->kind == HARDWARE)
		return;
	cpu->unpaired = frame->kind == ADOPTED || frame->kind == MOVED;
	cpu->returned = frame->callee;
	counts.proved += frame->kind == ADOPTED;
	cpu->stack->depth--;
}

static void leave_by_iret(struct cpu *cpu, uint64_t rsp)
{
	struct iret_frame frame;

	abandon(cpu->stack, rsp);
	cpu->resume.known = !options.nested && machine_read(rsp, &frame, sizeof(frame));
	if (cpu->resume.known) {
		cpu->resume.ip = frame.ip;
		cpu->resume.sp = frame.sp;
	}
}

static void leave(struct cpu *cpu, struct insn *insn, uint64_t rsp)
{
	struct frame *frame;

	switch (insn->flow) {
	case PLAIN:
		if (insn->aims && top(cpu->stack)->slot == rsp)
			top(cpu->stack)->aimed = top(cpu->stack)->kind == INTRA;
		break;
	case CALL: case CALL_INDIRECT:
		abandon(cpu->stack, rsp - 8);
		frame = stack_push(cpu->stack, rsp - 8, insn->intra ? INTRA : CALLED,
				   insn);
		frame->callee = insn->target;
		frame->bp = options.bp ? machine_register(REG_BP) : 0;
		break;
	case RET:
		leave_by_ret(cpu, rsp);
		return;
	case IRET:
		leave_by_iret(cpu, rsp);
		break;
	}
	cpu->returned = 0;
}

void step(struct cpu *cpu, struct insn *insn, uint64_t rsp, bool first)
{
	if (first) {
		arrive(cpu, insn, rsp);
		if (!control.insn && insn->verified > CONTROL_AFTER)
			control_start(insn);
	}
	if (page_of(rsp) != cpu->page)
		move(cpu, rsp);
	bury(cpu->stack, rsp);
	judge(cpu, insn, rsp);
	cpu->last = insn;
	cpu->rsp = rsp;
	if (insn->flow != PLAIN || insn->aims || cpu->returned)
		leave(cpu, insn, rsp);
}

/*
 * A task that never returned through an address that only a claim told of, although
 * a call had put another one on its stack: the claim was false all the time.
 */
void finish(void)
{
	for (struct stack *stack = stack_first(); stack; stack = stack->next)
		for (size_t i = 1; i < stack->depth; i++) {
			struct frame *frame = &stack->frames[i];

			if (frame->kind == ADOPTED && frame[-1].kind <= MOVED &&
			    frame[-1].kind != NOTHING)
				convict(frame->by, CLAIM_CFA, frame[-1].slot + 8);
		}
}
