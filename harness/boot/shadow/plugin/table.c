// SPDX-License-Identifier: GPL-2.0-or-later
#include "table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "module.h"

#define MAGIC "orc-tab2"
#define WORDS 0x10000

struct range {
	uint64_t begin, end;
};

/* Columns, in the order of the file, which begins with this header. */
static struct {
	char magic[8];
	uint64_t rows, ranges, functions;
} header;
static struct range *ranges;
static uint64_t *functions;	/* their first bytes, sorted */
static uint64_t *ip;
static int16_t *sp_offset, *bp_offset;
static uint8_t *sp_reg, *bp_reg, *type;
static uint8_t *sp_of, *bp_of, *type_of;	/* what each word of an entry means */

static void *column(FILE *file, size_t count, size_t size)
{
	void *data = calloc(count + 1, size);

	if (data && fread(data, size, count, file) == count)
		return data;
	free(data);
	return NULL;
}

bool table_load(const char *path)
{
	FILE *file = fopen(path, "rb");
	bool whole;

	if (!file)
		return false;
	whole = fread(&header, sizeof(header), 1, file) == 1 &&
		!memcmp(header.magic, MAGIC, sizeof(header.magic)) &&
		(ranges = column(file, header.ranges, sizeof(*ranges))) &&
		(functions = column(file, header.functions, sizeof(*functions))) &&
		(ip = column(file, header.rows, sizeof(*ip))) &&
		(sp_offset = column(file, header.rows, sizeof(*sp_offset))) &&
		(bp_offset = column(file, header.rows, sizeof(*bp_offset))) &&
		(sp_reg = column(file, header.rows, sizeof(*sp_reg))) &&
		(bp_reg = column(file, header.rows, sizeof(*bp_reg))) &&
		(type = column(file, header.rows, sizeof(*type))) &&
		(sp_of = column(file, WORDS, sizeof(*sp_of))) &&
		(bp_of = column(file, WORDS, sizeof(*bp_of))) &&
		(type_of = column(file, WORDS, sizeof(*type_of)));
	fclose(file);
	return whole;
}

/* The last of sorted addresses that is not above the address; -1 if all are. */
static int64_t last_at(const uint64_t *addresses, size_t count, uint64_t address)
{
	size_t low = 0, high = count;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (addresses[middle] <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return (int64_t)low - 1;
}

bool table_knows(uint64_t address)
{
	for (size_t i = 0; i < header.ranges; i++)
		if (address >= ranges[i].begin && address < ranges[i].end)
			return true;
	return false;
}

static bool is_intra(const struct insn *insn)
{
	int64_t here = last_at(functions, header.functions, insn->pc);

	return insn->flow == CALL && here >= 0 && insn->target != functions[here] &&
	       last_at(functions, header.functions, insn->target) == here;
}

size_t table_rows(void)
{
	return header.rows;
}

void table_meaning(uint16_t word, uint8_t *sp, uint8_t *bp, uint8_t *kind)
{
	*sp = sp_of[word];
	*bp = bp_of[word];
	*kind = type_of[word];
}

int32_t table_row(uint64_t pc)
{
	struct orc_entry entry;

	return table_knows(pc) ? last_at(ip, header.rows, pc) : module_row(pc, &entry);
}

static void claim_of_module(struct insn *insn)
{
	struct orc_entry entry;

	insn->row = module_row(insn->pc, &entry);
	if (insn->row == NO_ROW)
		return;
	insn->sp_offset = entry.sp_offset;
	insn->bp_offset = entry.bp_offset;
	table_meaning(entry.word, &insn->sp_reg, &insn->bp_reg, &insn->type);
}

void table_claim(struct insn *insn)
{
	int64_t row = last_at(ip, header.rows, insn->pc);

	insn->row = NO_ROW;
	insn->type = TYPE_UNDEFINED;
	insn->intra = false;
	if (!table_knows(insn->pc)) {
		claim_of_module(insn);
		return;
	}
	insn->intra = is_intra(insn);
	if (row < 0)
		return;
	insn->row = row;
	insn->sp_offset = sp_offset[row];
	insn->bp_offset = bp_offset[row];
	insn->sp_reg = sp_reg[row];
	insn->bp_reg = bp_reg[row];
	insn->type = type[row];
}
