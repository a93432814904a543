// SPDX-License-Identifier: GPL-2.0-or-later
#include "rules.h"

#include <stdlib.h>

#define CONTROL_BYTES 8

struct control control;
struct mismatch *mismatches;
size_t mismatch_count;

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

void suspect(struct cpu *cpu, struct insn *insn, enum claim claim, uint64_t rsp,
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

void convict(struct insn *insn, enum claim claim, uint64_t truth)
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

bool control_is_clean(void)
{
	return control.seen && control.insn->verified > control.verified;
}

bool control_holds(const struct insn *insn)
{
	return insn == control.insn && !control_is_clean();
}

void control_start(struct insn *insn)
{
	if (insn->type != TYPE_CALL || insn->sp_reg != REG_SP)
		return;
	control.insn = insn;
	insn->sp_offset += CONTROL_BYTES;
}
