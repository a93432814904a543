/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef ORC_WORKLOAD_H
#define ORC_WORKLOAD_H

/*
 * One part of the workload: makes the kernel run a kind of entry code, and
 * counts what the kernel did as asked. "asked" is set by the part itself.
 */
struct part {
	const char *name;
	int (*run)(int *asked);
};

extern const struct part workload[];
extern const unsigned int workload_parts;

int workload_cpus(void);

#endif
