/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Map: from numbers to pointers, by open addressing; a zeroed one is empty. */
#ifndef MAP_H
#define MAP_H

#include <stddef.h>
#include <stdint.h>

struct map {
	struct slot {
		uint64_t key;
		void *value;	/* NULL: the slot is free */
	} *slots;
	size_t size;		/* a power of two */
	size_t used;
};

void *map_get(const struct map *map, uint64_t key);
void map_put(struct map *map, uint64_t key, void *value);

#endif
