// SPDX-License-Identifier: GPL-2.0-or-later
#include "module.h"

#include <stdlib.h>
#include <string.h>

#include "table.h"

#define PAGE_BYTES UINT64_C(4096)

struct row {
	uint64_t ip;
	uint32_t index;		/* in the order of the file */
};

struct module {
	char name[MODULE_NAME_BYTES];
	int32_t first_row;
	size_t count;
	size_t left;
	struct row *rows;	/* those that are left, by address */
	uint64_t *ip;		/* as in the file, like these: */
	struct orc_entry *entries;
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
	size_t low = 0, high = module->left;

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

/* Tell whether text of module is in the page. */
static bool is_in(const struct module *module, uint64_t page)
{
	const struct row *row = row_at(module, page);

	if (row && is_text(module, row))
		return true;
	for (row = row ? row + 1 : module->rows;
	     row < module->rows + module->left && row->ip < page + PAGE_BYTES; row++)
		if (is_text(module, row))
			return true;
	return false;
}

/*
 * Drop the rows of other where text of module is now: it was freed, all of it or what was
 * for init only, each of which has pages of its own. A row without text ends what is
 * before it.
 */
static void make_way(struct module *other, const struct module *module)
{
	size_t left = 0;

	for (size_t i = 0; i < other->left; i++) {
		uint64_t ip = other->rows[i].ip - !is_text(other, &other->rows[i]);

		if (!is_in(module, ip & -PAGE_BYTES))
			other->rows[left++] = other->rows[i];
	}
	other->left = left;
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
	module->count = module->left = count;
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
		make_way(other, module);
	module->before = last;
	last = module;
}

int32_t module_row(uint64_t pc, struct orc_entry *entry)
{
	const struct module *owner = NULL;
	const struct row *nearest = NULL;

	for (const struct module *module = last; module; module = module->before) {
		const struct row *row = row_at(module, pc);

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
