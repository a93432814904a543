/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Places: the guest's instructions by address, and what was at each before. */
#ifndef PLACES_H
#define PLACES_H

#include "insn.h"
#include "map.h"

extern struct map places;	/* struct insn, by its address */

/*
 * Return the instruction at pc, which has CODE_BYTES of code: the one that was executed
 * there only if it is the same under the same row. Another one, as where the kernel
 * patches itself or a module has the memory of an earlier one, is kept behind it, with
 * what was counted and what was found of it.
 */
struct insn *place_of(uint64_t pc, const uint8_t *code);

void places_forget(void);

#endif
