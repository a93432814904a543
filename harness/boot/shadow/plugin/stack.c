// SPDX-License-Identifier: GPL-2.0-or-later
#include "stack.h"

#include <stdlib.h>

#include "map.h"

static struct map pages;
static struct stack *first;

struct stack *stack_new(void)
{
	struct stack *stack = calloc(1, sizeof(*stack));

	if (!stack)
		abort();
	stack_push(stack, UINT64_MAX, NOTHING, NULL);
	stack->next = first;
	first = stack;
	return stack;
}

struct stack *stack_first(void)
{
	return first;
}

const struct frame *innermost(const struct stack *stack)
{
	const struct frame *frame = top(stack);

	while (frame->kind == INTRA)
		frame--;
	return frame;
}

const struct frame *innermost_hardware(const struct stack *stack)
{
	const struct frame *frame = top(stack);

	while (frame->kind != HARDWARE && frame->kind != NOTHING)
		frame--;
	return frame;
}

struct frame *stack_push(struct stack *stack, uint64_t slot, enum frame_kind kind,
			 struct insn *by)
{
	if (stack->depth == stack->room) {
		stack->room = stack->room ? 2 * stack->room : 32;
		stack->frames = realloc(stack->frames,
					stack->room * sizeof(*stack->frames));
		if (!stack->frames)
			abort();
	}
	stack->frames[stack->depth++] = (struct frame){
		.slot = slot, .by = by, .kind = kind,
	};
	return top(stack);
}

struct stack *stack_at(uint64_t page)
{
	return map_get(&pages, page);
}

void stack_owns(struct stack *stack, uint64_t page)
{
	map_put(&pages, page, stack);
}

void stack_forget(void)
{
	pages = (struct map){ 0 };
	first = NULL;
}
