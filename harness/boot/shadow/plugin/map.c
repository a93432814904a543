// SPDX-License-Identifier: GPL-2.0-or-later
#include "map.h"

#include <stdlib.h>

#define FIRST_SIZE 1024

static struct slot *find(const struct map *map, uint64_t key)
{
	size_t at = key * 0x9e3779b97f4a7c15 >> 20;

	while (map->slots[at & (map->size - 1)].value &&
	       map->slots[at & (map->size - 1)].key != key)
		at++;
	return &map->slots[at & (map->size - 1)];
}

static void grow(struct map *map)
{
	struct map old = *map;

	map->size = old.size ? 2 * old.size : FIRST_SIZE;
	map->slots = calloc(map->size, sizeof(*map->slots));
	if (!map->slots)
		abort();
	for (size_t i = 0; i < old.size; i++)
		if (old.slots[i].value)
			*find(map, old.slots[i].key) = old.slots[i];
	free(old.slots);
}

void *map_get(const struct map *map, uint64_t key)
{
	return map->size ? find(map, key)->value : NULL;
}

void map_put(struct map *map, uint64_t key, void *value)
{
	struct slot *slot;

	if (2 * map->used >= map->size)
		grow(map);
	slot = find(map, key);
	map->used += !slot->value;
	*slot = (struct slot){ key, value };
}
