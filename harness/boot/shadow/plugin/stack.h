/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Shadow stacks: where the return addresses and hardware frames of each of the
 * guest's stacks are, as calls and exceptions put them there.
 */
#ifndef STACK_H
#define STACK_H

#include "insn.h"

enum frame_kind {
	NOTHING,	/* below the first: nothing is live */
	CALLED,		/* a call pushed a return address */
	MOVED,		/* the return address above it was copied here */
	ADOPTED,	/* a claim says that there is one; a ret has to prove it */
	INTRA,		/* a call to the inside of its own function did */
	HARDWARE,	/* an exception pushed ip, cs, flags, sp and ss */
};

struct frame {
	uint64_t slot;		/* its lowest address */
	struct insn *by;	/* the call, or whose claim it is */
	uint64_t callee;	/* where the call went */
	uint64_t bp;		/* RBP at the call, if that is checked */
	enum frame_kind kind;
	bool aimed;		/* INTRA's word was overwritten: what ret takes is a caller */
};

/* Pages of memory that RSP went through without a jump, and what lives there. */
struct stack {
	struct frame *frames;	/* outermost first; the first is NOTHING */
	size_t depth, room;
	struct stack *link;	/* the one that RSP came from when this was empty */
	uint64_t left;		/* RSP when another one was loaded */
	struct stack *next;	/* in no order */
};

static inline struct frame *top(const struct stack *stack)
{
	return &stack->frames[stack->depth - 1];
}

/* The page of the last word that was pushed: RSP may be at the end of a stack. */
static inline uint64_t page_of(uint64_t rsp)
{
	return (rsp - 8) >> 12;
}

struct stack *stack_new(void);

/* Return the first of all stacks. */
struct stack *stack_first(void);

/* Return the innermost frame that is no INTRA; NOTHING if there is none. */
const struct frame *innermost(const struct stack *stack);

/* Return the innermost HARDWARE frame, whatever was called since; or NOTHING. */
const struct frame *innermost_hardware(const struct stack *stack);

/* Put a frame on top of those above it; the caller has buried the others. */
struct frame *stack_push(struct stack *stack, uint64_t slot, enum frame_kind kind,
			 struct insn *by);

/* Return the stack of the page, or NULL. */
struct stack *stack_at(uint64_t page);

/* Say that the page is the stack's. */
void stack_owns(struct stack *stack, uint64_t page);

/* Forget whose pages are: the machine starts anew. */
void stack_forget(void);

#endif
