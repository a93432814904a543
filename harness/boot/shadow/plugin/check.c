// SPDX-License-Identifier: GPL-2.0-or-later
#include "check.h"

#include <stdlib.h>
#include <string.h>

#define IRET_FRAME_OFFSET 0x80	/* of ip in struct pt_regs */
#define CONTROL_AFTER 1000
#define CONTROL_BYTES 8

struct options options;
struct counts counts;
struct control control;
struct mismatch *mismatches;
size_t mismatch_count;

static struct stack nowhere;	/* a user's stack, in the first steps of a system call */

void cpu_init(struct cpu *cpu)
{
	if (!nowhere.depth)
		nowhere = *stack_new();
	*cpu = (struct cpu){ .stack = &nowhere };
}

/* Claims that were false. */

static struct mismatch *mismatch_of(struct insn *insn, enum claim claim)
{
	if (!insn->mismatch[claim]) {
		mismatches = realloc(mismatches,
				     (mismatch_count + 1) * sizeof(*mismatches));
		if (!mismatches)
			abort();
		mismatches[mismatch_count++] = (struct mismatch){
			.insn = insn, .claim = claim,
		};
		insn->mismatch[claim] = mismatch_count;
	}
	return &mismatches[insn->mismatch[claim] - 1];
}

/* Keep the context of a claim that looks false. */
static void suspect(struct cpu *cpu, struct insn *insn, enum claim claim, uint64_t rsp,
		    uint64_t claimed)
{
	struct mismatch *mismatch = mismatch_of(insn, claim);
	const struct insn *caller = top(cpu->stack)->by;

	if (!mismatch->count)
		*mismatch = (struct mismatch){
			.insn = insn,
			.claim = claim,
			.claimed = claimed,
			.rsp = rsp,
			.from = cpu->last ? cpu->last->pc : 0,
			.returned = cpu->returned,
			.caller = caller ? caller->pc : 0,
		};
}

static void convict(struct insn *insn, enum claim claim, uint64_t truth)
{
	struct mismatch *mismatch = mismatch_of(insn, claim);

	if (insn == control.insn && !control.seen) {
		insn->sp_offset -= CONTROL_BYTES;
		control.seen = true;
		control.verified = insn->verified;
		return;
	}
	if (!mismatch->count++)
		mismatch->truth = truth;
}

/* Make a claim that has proved true wrong, so that it must be told of. */
static void control_start(struct insn *insn)
{
	if (insn->type != TYPE_CALL || insn->sp_reg != REG_SP)
		return;
	control.insn = insn;
	insn->sp_offset += CONTROL_BYTES;
}

/* Frames that are over. */

static void bury(struct stack *stack, uint64_t rsp)
{
	while (top(stack)->slot < rsp) {
		if (top(stack)->kind == ADOPTED)
			convict(top(stack)->by, CLAIM_CFA, 0);
		stack->depth--;
	}
}

static void abandon(struct stack *stack, uint64_t last)
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
 */
static void move(struct cpu *cpu, uint64_t rsp)
{
	struct stack *before = cpu->stack;
	struct stack *owner = stack_at(page_of(rsp));

	if (owner && owner != before && owner->left != rsp && near(cpu, page_of(rsp)))
		stack_owns(before, page_of(rsp));	/* it was somebody's once */
	settle(cpu, rsp);
	if (cpu->stack == before)
		return;
	before->left = cpu->rsp;
	if (cpu->stack->left != rsp)
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

static void arrive(struct cpu *cpu, struct insn *insn, uint64_t rsp)
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

/* Claims that the innermost frame does not bear out. */

/* Tell whether the words at slot are the return address of the frame's call. */
static bool was_moved(const struct frame *frame, uint64_t slot)
{
	uint64_t address;

	return frame->kind == CALLED && !options.nested &&
	       machine_read(slot, &address, sizeof(address)) &&
	       address == behind(frame->by);
}

/*
 * Tell whether a call that only pushed has had its word at slot overwritten, as a
 * retpoline does: what the ret behind will take from there is a caller to the unwinder.
 */
static bool was_aimed(const struct frame *frame, uint64_t slot)
{
	uint64_t address;

	return frame->kind == INTRA && frame->slot == slot && !options.nested &&
	       machine_read(slot, &address, sizeof(address)) &&
	       address != behind(frame->by);
}

static void dispute_call(struct cpu *cpu, struct insn *insn, uint64_t rsp, uint64_t slot)
{
	struct stack *stack = cpu->stack;
	const struct frame *frame = innermost(stack);

	if (was_aimed(top(stack), slot)) {
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

/* ip, cs, flags, sp and ss, as hardware pushes them and iret takes them. */
struct iret_frame {
	uint64_t ip, cs, flags, sp, ss;
};

static bool of_user(const struct iret_frame *frame)
{
	uint32_t cs = frame->cs;	/* Xen has a mask in the other half */

	return (cs & ~0xfffc) == 3 && (frame->ss & ~0xfffc) == 3 &&
	       (frame->flags & ~0x3f7fd5) == 2 &&
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

static void dispute_regs(struct cpu *cpu, struct insn *insn, uint64_t rsp, uint64_t at,
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

/* Compute the CFA as unwind_next_frame() does; false if that is not possible. */
static bool cfa_of(const struct insn *insn, uint64_t rsp, uint64_t *cfa)
{
	uint64_t at;

	switch (insn->sp_reg) {
	case REG_SP:
		*cfa = rsp + insn->sp_offset;
		return true;
	case REG_BP:
		*cfa = machine_register(REG_BP) + insn->sp_offset;
		return true;
	case REG_SP_INDIRECT:
		at = rsp;
		break;
	case REG_BP_INDIRECT:
		at = machine_register(REG_BP) + insn->sp_offset;
		break;
	case REG_AX: case REG_DX: case REG_DI: case REG_R10: case REG_R13:
		*cfa = machine_register(insn->sp_reg);
		return true;
	default:
		*cfa = 0;
		return true;
	}
	if (options.nested || !machine_read(at, cfa, sizeof(*cfa)))
		return false;
	if (insn->sp_reg == REG_SP_INDIRECT)
		*cfa += insn->sp_offset;
	return true;
}

/* Recover the caller's RBP as unwind_next_frame() does; false if that is not possible. */
static bool bp_of(const struct insn *insn, uint64_t cfa, uint64_t *bp)
{
	uint64_t at = insn->bp_reg == REG_PREV_SP ? cfa : machine_register(REG_BP);

	if (insn->bp_reg != REG_UNDEFINED)
		return !options.nested &&
		       machine_read(at + insn->bp_offset, bp, sizeof(*bp));
	*bp = at;
	return true;
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
	if (insn->flow != PLAIN || cpu->returned)
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
