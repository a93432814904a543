/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Instructions: what one does to the flow of control, and what the table claims of it.
 */
#ifndef INSN_H
#define INSN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* harness/elf/orc/entry.py, OrcReg and OrcType */
enum orc_reg {
	REG_UNDEFINED, REG_PREV_SP, REG_DX, REG_DI, REG_BP, REG_SP, REG_R10, REG_R13,
	REG_BP_INDIRECT, REG_SP_INDIRECT, REG_AX,
	REG_SI, REG_CX,		/* in no table; arguments of a function */
	REG_COUNT,
};

enum orc_type {
	TYPE_UNDEFINED, TYPE_END_OF_STACK, TYPE_CALL, TYPE_REGS, TYPE_REGS_PARTIAL,
};

/* Where control can be after an instruction, besides in a handler. */
enum flow {
	PLAIN,		/* behind it */
	JUMP,		/* behind it, or at its target */
	JUMP_INDIRECT,
	CALL,		/* at its target */
	CALL_INDIRECT,
	RET,
	IRET,
	FAR,		/* with another privilege: syscall, sysret, sysexit */
};

/* What an entry says: where the caller's frame is, and where its RBP was saved. */
enum claim {
	CLAIM_CFA, CLAIM_BP,
};

#define NO_ROW (-1)
#define CODE_BYTES 16

/* One instruction of the guest, as it was last translated; what is hot comes first. */
struct insn {
	uint64_t pc;
	uint64_t target;	/* of a direct jump or call */
	uint64_t verified;	/* executions whose claim was true */
	uint64_t other;		/* executions with another outcome, or without a claim */
	int32_t row;		/* of the table, or NO_ROW; what it claims: */
	int16_t sp_offset;
	int16_t bp_offset;
	uint8_t sp_reg;
	uint8_t bp_reg;
	uint8_t type;
	bool intra;		/* a call to the inside of its own function */
	uint8_t flow;
	uint8_t length;
	uint16_t pops;		/* bytes that a RET takes beside the address, LEAVE from RBP */
	bool aims;		/* it overwrites the word at RSP, as a retpoline does */
	bool sp_known;		/* what it adds to RSP is: */
	int32_t sp_delta;
	uint32_t mismatch[2];	/* its records by enum claim, from 1; 0 is none */
	uint8_t code[CODE_BYTES];
	struct insn *before;	/* what was executed there before */
} __attribute__((aligned(64)));

static inline uint64_t behind(const struct insn *insn)
{
	return insn->pc + insn->length;
}

static inline bool is_ud2(const uint8_t *code)
{
	return code[0] == 0x0f && code[1] == 0x0b;
}

/* Fill in what the code of the instruction at insn->pc tells. There are CODE_BYTES. */
void decode(struct insn *insn, const uint8_t *code, size_t length);

#endif
