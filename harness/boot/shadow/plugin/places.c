// SPDX-License-Identifier: GPL-2.0-or-later
#include "places.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "table.h"

#define POOL 4096

struct map places;

static struct insn *new_insn(void)
{
	static struct insn *pool;
	static size_t left;

	if (!left) {
		left = POOL;
		pool = aligned_alloc(_Alignof(struct insn), left * sizeof(*pool));
		if (!pool)
			abort();
		memset(pool, 0, left * sizeof(*pool));
	}
	return &pool[--left];
}

static bool is_same(const struct insn *insn, const uint8_t *code)
{
	return !memcmp(insn->code, code, CODE_BYTES) && insn->row == table_row(insn->pc);
}

struct insn *place_of(uint64_t pc, const uint8_t *code)
{
	struct insn *insn = map_get(&places, pc), *before = insn;

	if (insn && (control_holds(insn) || is_same(insn, code)))
		return insn;
	if (!insn || insn->verified + insn->other) {
		insn = new_insn();
		insn->pc = pc;
		insn->before = before;
		map_put(&places, pc, insn);
	}
	memcpy(insn->code, code, CODE_BYTES);
	return insn;
}

void places_forget(void)
{
	places = (struct map){ 0 };
}
