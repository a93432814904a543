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

/*
 * Tell whether one row is the last of what vmalloc() gave for text, as it leaves a page
 * free behind that. Init text is allocated, and freed, on its own.
 */
static bool ends_text(const struct module *module, size_t row)
{
	const struct row *rows = module->rows;
	uint64_t end = (rows[row].ip + PAGE_BYTES - 1) & -PAGE_BYTES;

	if (row + 1 == module->left)
		return true;
	return !is_text(module, &rows[row]) &&
	       (rows[row + 1].ip & -PAGE_BYTES) >= end + PAGE_BYTES;
}

/* Tell whether of rows first to last, of the one, text is where text of the other is. */
static bool overlap(const struct module *one, size_t first, size_t last,
		    const struct module *other)
{
	for (size_t i = first; i <= last; i++) {
		const struct row *there = row_at(other, one->rows[i].ip);

		if (there && is_text(other, there))
			return true;
	}
	for (size_t i = 0; i < other->left; i++) {
		uint64_t ip = other->rows[i].ip;

		if (is_text(other, &other->rows[i]) &&
		    ip >= one->rows[first].ip && ip < one->rows[last].ip)
			return true;
	}
	return false;
}

/* Drop the rows of other's text that was freed, as there is text of module now. */
static void make_way(struct module *other, const struct module *module)
{
	size_t left = 0, first = 0;

	for (size_t i = 0; i < other->left; i++) {
		if (!ends_text(other, i))
			continue;
		if (!overlap(other, first, i, module)) {
			/* to where nothing is read any more */
			memmove(&other->rows[left], &other->rows[first],
				(i + 1 - first) * sizeof(*other->rows));
			left += i + 1 - first;
		}
		first = i + 1;
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
