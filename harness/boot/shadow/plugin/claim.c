// SPDX-License-Identifier: GPL-2.0-or-later
#include "rules.h"

bool cfa_of(const struct insn *insn, uint64_t rsp, uint64_t *cfa)
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

bool bp_of(const struct insn *insn, uint64_t cfa, uint64_t *bp)
{
	uint64_t at = insn->bp_reg == REG_PREV_SP ? cfa : machine_register(REG_BP);

	if (insn->bp_reg != REG_UNDEFINED)
		return !options.nested &&
		       machine_read(at + insn->bp_offset, bp, sizeof(*bp));
	*bp = at;
	return true;
}
