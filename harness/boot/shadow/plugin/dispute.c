// SPDX-License-Identifier: GPL-2.0-or-later
#include "rules.h"

#include <string.h>

/* Tell whether the words at slot are the return address of the frame's call. */
static bool was_moved(const struct frame *frame, uint64_t slot)
{
	uint64_t address;

	return frame->kind == CALLED && !options.nested &&
	       machine_read(slot, &address, sizeof(address)) &&
	       address == behind(frame->by);
}

void dispute_call(struct cpu *cpu, struct insn *insn, uint64_t rsp, uint64_t slot)
{
	struct stack *stack = cpu->stack;
	const struct frame *frame = innermost(stack);

	if (top(stack)->aimed && top(stack)->slot == slot) {
		insn->verified++;
		return;
	}
	if (frame->kind == ADOPTED && frame->slot != slot && frame[-1].slot == slot) {
		convict(frame->by, CLAIM_CFA, slot + 8);
		stack->depth = frame - stack->frames;
		frame = innermost(stack);
	}
	if (frame->kind == NOTHING && stack->link)
		frame = innermost(stack->link);
	if (frame->kind != NOTHING && frame->kind != HARDWARE && frame->slot == slot) {
		if (frame->kind == ADOPTED)
			insn->other++;
		else
			insn->verified++;
		return;
	}
	if (slot < rsp || slot >= top(stack)->slot) {
		insn->other++;
		suspect(cpu, insn, CLAIM_CFA, rsp, slot + 8);
		convict(insn, CLAIM_CFA, frame->kind == NOTHING ? 0 : frame->slot + 8);
	} else if (was_moved(frame, slot)) {
		insn->verified++;
		counts.frames_moved++;
		stack_push(stack, slot, MOVED, frame->by)->callee = frame->callee;
	} else {
		insn->other++;
		counts.adopted++;
		suspect(cpu, insn, CLAIM_CFA, rsp, slot + 8);
		stack_push(stack, slot, ADOPTED, insn);
	}
}

static bool of_user(const struct iret_frame *frame)
{
	uint32_t cs = frame->cs;	/* Xen has a mask in the other half */

	/* Interrupts are on; 6.1's start_thread() does not set the bit that always is. */
	return (cs & ~0xfffc) == 3 && (frame->ss & ~0xfffc) == 3 &&
	       (frame->flags & ~0x3f7dd7) == 0x200 &&
	       !(frame->ip >> 63) && !(frame->sp >> 63);
}

/*
 * Software writes hardware frames, too: of the user's registers, where entry code
 * begins a stack; and copies, where a handler needs room above itself.
 */
static bool was_built(const struct stack *stack, const struct frame *frame, uint64_t at)
{
	struct iret_frame here, there;

	if (!machine_read(at, &here, sizeof(here)))
		return false;
	if (of_user(&here))
		return stack->depth == 1 || stack->frames[1].slot <= at;
	return frame->kind == HARDWARE &&
	       machine_read(frame->slot, &there, sizeof(there)) &&
	       !memcmp(&here, &there, sizeof(here));
}

void dispute_regs(struct cpu *cpu, struct insn *insn, uint64_t rsp, uint64_t at,
		  uint64_t offset)
{
	struct stack *stack = cpu->stack;
	const struct frame *frame = innermost_hardware(stack);

	if (frame->kind == NOTHING && stack->link)
		frame = innermost_hardware(stack->link);
	if (frame->kind == HARDWARE && frame->slot == at) {
		insn->verified++;
		return;
	}
	if (options.nested) {
		counts.undecided++;
		insn->other++;
		if (frame->kind != NOTHING)
			return;
	} else if (was_built(stack, frame, at)) {
		insn->verified++;
	} else {
		insn->other++;
		suspect(cpu, insn, CLAIM_CFA, rsp, at - offset);
		convict(insn, CLAIM_CFA, frame->kind == NOTHING ? 0 : frame->slot - offset);
		return;
	}
	counts.frames_built++;
	abandon(stack, at);
	stack_push(stack, at, HARDWARE, insn);
}
