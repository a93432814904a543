/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Modules: their ORC tables, as the kernel has them in memory once they are relocated.
 * Rows count on from those of the kernel's table, in the order of each module's file.
 */
#ifndef MODULE_H
#define MODULE_H

#include <stdio.h>

#include "insn.h"

#define MODULE_NAME_BYTES 56	/* MODULE_NAME_LEN of include/linux/moduleparam.h */

/* struct orc_entry of arch/x86/include/asm/orc_types.h */
struct orc_entry {
	int16_t sp_offset, bp_offset;
	uint16_t word;		/* registers and type; table_meaning() tells which */
} __attribute__((packed));

/*
 * Take a module's table: count distances, the first of which is at address, from each
 * to its instruction, and as many entries. Of others the rows are dropped in whose
 * place it is: all of one that was unloaded, or those of init text that was freed.
 */
void module_add(const char *name, int32_t first_row, uint64_t address,
		const int32_t *distances, const struct orc_entry *entries, size_t count);

/* Return the row that holds at pc, and its entry; NO_ROW if no module has one. */
int32_t module_row(uint64_t pc, struct orc_entry *entry);

/* Return how many rows all modules have had. */
size_t module_rows(void);

/* Write each module that there was: its name, count, and the address of each row. */
void module_write(FILE *file);

void module_forget(void);

#endif
