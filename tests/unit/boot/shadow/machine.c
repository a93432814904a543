// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A machine that executes what a test says: the plugin's rules without QEMU. Built
 * with plugin/check.c and what that needs; called through ctypes.
 */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "map.h"
#include "places.h"
#include "table.h"

static struct cpu cpu;
static struct map words;
static uint64_t registers[REG_COUNT];

uint64_t machine_register(enum orc_reg reg)
{
	return registers[reg];
}

bool machine_read(uint64_t address, void *data, size_t size)
{
	for (size_t i = 0; i < size; i += 8) {
		uint64_t *word = map_get(&words, address + i);

		if (!word)
			return false;
		memcpy((char *)data + i, word, 8);
	}
	return true;
}

void write_word(uint64_t address, uint64_t value)
{
	uint64_t *word = malloc(sizeof(*word));

	*word = value;
	map_put(&words, address, word);
}

void set_register(int reg, uint64_t value)
{
	registers[reg] = value;
}

void start(bool nested, uint64_t bounce, bool bp)
{
	options = (struct options){ .nested = nested, .bounce = bounce, .bp = bp };
	counts = (struct counts){ 0 };
	control = (struct control){ 0 };
	mismatch_count = 0;
	words = (struct map){ 0 };
	places_forget();
	stack_forget();
	cpu_init(&cpu);
}

/* Put length bytes of code at pc, of which the CPU takes the first as executed. */
struct insn *place(uint64_t pc, const uint8_t *code, size_t length, size_t executed)
{
	uint8_t whole[CODE_BYTES] = { 0 };
	struct insn *insn;

	memcpy(whole, code, length < sizeof(whole) ? length : sizeof(whole));
	insn = place_of(pc, whole);
	decode(insn, whole, executed);
	insn->row = table_row(pc);
	return insn;
}

void claim(struct insn *insn, int type, int reg, int offset, bool intra, int bp_reg,
	   int bp_offset)
{
	insn->type = type;
	insn->sp_reg = reg;
	if (!control_holds(insn))
		insn->sp_offset = offset;
	insn->intra = intra;
	insn->bp_reg = bp_reg;
	insn->bp_offset = bp_offset;
}

void execute(struct insn *insn, uint64_t rsp, bool first)
{
	step(&cpu, insn, rsp, first);
}

uint64_t verified(const struct insn *insn)
{
	return insn->verified;
}

int flow(const struct insn *insn)
{
	return insn->flow;
}

uint64_t target(const struct insn *insn)
{
	return insn->target;
}

int row(const struct insn *insn)
{
	return insn->row;
}

int sp_offset(const struct insn *insn)
{
	return insn->sp_offset;
}

bool known(const struct insn *insn)
{
	return insn->sp_known;
}

int delta(const struct insn *insn)
{
	return insn->sp_delta;
}

/* Fill in pc, count, claimed, truth, returned, claim, row of the n-th that was false. */
bool mismatch(size_t n, uint64_t *seven)
{
	const struct mismatch *one = &mismatches[n];

	if (n >= mismatch_count)
		return false;
	seven[0] = one->insn->pc;
	seven[1] = one->count;
	seven[2] = one->claimed;
	seven[3] = one->truth;
	seven[4] = one->returned;
	seven[5] = one->claim;
	seven[6] = one->insn->row;
	return true;
}

/* Decode many at once: 16 bytes of code, address and length of each. */
void decode_many(size_t count, const uint8_t (*code)[16], const uint64_t *address,
		 const uint8_t *length, uint8_t *flows, uint64_t *targets, uint8_t *known,
		 int32_t *delta)
{
	for (size_t i = 0; i < count; i++) {
		struct insn insn = { .pc = address[i] };

		decode(&insn, code[i], length[i]);
		flows[i] = insn.flow;
		targets[i] = insn.target;
		known[i] = insn.sp_known;
		delta[i] = insn.sp_delta;
	}
}
