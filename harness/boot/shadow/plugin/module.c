// SPDX-License-Identifier: GPL-2.0-or-later
#include "module.h"

#include <stdlib.h>
#include <string.h>

#include "table.h"

struct row {
	uint64_t ip;
	uint32_t index;		/* in the order of the file */
};

struct module {
	char name[MODULE_NAME_BYTES];
	int32_t first_row;
	size_t count;
	struct row *rows;	/* by address */
	uint64_t *ip;		/* as in the file, like these: */
	struct orc_entry *entries;
	bool gone;
	struct module *before;
};

static struct module *last;

static int by_address(const void *one, const void *other)
{
	const struct row *a = one, *b = other;

	if (a->ip != b->ip)
		return a->ip < b->ip ? -1 : 1;
	return a->index < b->index ? -1 : a->index > b->index;
}

/* The last row that is not behind pc; NULL if all are. */
static const struct row *row_at(const struct module *module, uint64_t pc)
{
	size_t low = 0, high = module->count;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (module->rows[middle].ip <= pc)
			low = middle + 1;
		else
			high = middle;
	}
	return low ? &module->rows[low - 1] : NULL;
}

static bool is_text(const struct module *module, const struct row *row)
{
	uint8_t sp_reg, bp_reg, type;

	table_meaning(module->entries[row->index].word, &sp_reg, &bp_reg, &type);
	return type != TYPE_UNDEFINED;
}

/* Tell whether text of the one is where text of the other is. */
static bool overlaps(const struct module *one, const struct module *other)
{
	for (size_t i = 0; i < one->count; i++) {
		const struct row *there = row_at(other, one->rows[i].ip);

		if (there && is_text(other, there))
			return true;
	}
	return false;
}

static void *copy(const void *data, size_t size)
{
	void *made = malloc(size + 1);

	if (!made)
		abort();
	memcpy(made, data, size);
	return made;
}

void module_add(const char *name, int32_t first_row, uint64_t address,
		const int32_t *distances, const struct orc_entry *entries, size_t count)
{
	struct module *module = calloc(1, sizeof(*module));

	if (!module)
		abort();
	memcpy(module->name, name, sizeof(module->name));
	module->first_row = first_row;
	module->count = count;
	module->entries = copy(entries, count * sizeof(*entries));
	module->ip = calloc(count + 1, sizeof(*module->ip));
	module->rows = calloc(count + 1, sizeof(*module->rows));
	if (!module->ip || !module->rows)
		abort();
	for (size_t i = 0; i < count; i++) {
		module->ip[i] = address + i * sizeof(*distances) + distances[i];
		module->rows[i] = (struct row){ module->ip[i], i };
	}
	qsort(module->rows, count, sizeof(*module->rows), by_address);
	for (struct module *other = last; other; other = other->before)
		other->gone |= overlaps(module, other) || overlaps(other, module);
	module->before = last;
	last = module;
}

int32_t module_row(uint64_t pc, struct orc_entry *entry)
{
	const struct module *owner = NULL;
	const struct row *nearest = NULL;

	for (const struct module *module = last; module; module = module->before) {
		const struct row *row = module->gone ? NULL : row_at(module, pc);

		if (row && (!nearest || row->ip > nearest->ip)) {
			nearest = row;
			owner = module;
		}
	}
	if (!nearest || !is_text(owner, nearest))
		return NO_ROW;
	*entry = owner->entries[nearest->index];
	return owner->first_row + nearest->index;
}

size_t module_rows(void)
{
	size_t count = 0;

	for (const struct module *module = last; module; module = module->before)
		count += module->count;
	return count;
}

void module_write(FILE *file)
{
	for (const struct module *module = last; module; module = module->before) {
		uint64_t head[2] = { module->first_row, module->count };

		fwrite(module->name, sizeof(module->name), 1, file);
		fwrite(head, sizeof(head), 1, file);
		fwrite(module->ip, sizeof(*module->ip), module->count, file);
	}
}

void module_forget(void)
{
	last = NULL;
}
