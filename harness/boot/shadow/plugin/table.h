/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Table: the kernel's ORC table, as harness/boot/shadow/table.py wrote it. */
#ifndef TABLE_H
#define TABLE_H

#include "insn.h"

/* Read the file; false if it is none of ours. */
bool table_load(const char *path);

/* Tell whether the address is in text that the table is about. */
bool table_knows(uint64_t address);

/* Return how many rows the table has. */
size_t table_rows(void);

/* Tell what the word of an entry in the kernel's format means. */
void table_meaning(uint16_t word, uint8_t *sp_reg, uint8_t *bp_reg, uint8_t *type);

/* Return the row that holds at pc, the kernel's or a module's; NO_ROW if none does. */
int32_t table_row(uint64_t pc);

/* Fill in what the row claims at insn->pc, and whether insn is an intra call. */
void table_claim(struct insn *insn);

#endif
