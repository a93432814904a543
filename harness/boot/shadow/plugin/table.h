/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Table: the kernel's ORC table, as harness/boot/shadow/table.py wrote it. */
#ifndef TABLE_H
#define TABLE_H

#include "insn.h"

/* Read the file; false if it is none of ours. */
bool table_load(const char *path);

/* Tell whether the address is in text that the table is about. */
bool table_knows(uint64_t address);

/* Fill in what the table claims at insn->pc, and whether insn is an intra call. */
void table_claim(struct insn *insn);

#endif
