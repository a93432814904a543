/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef ORC_WORKLOAD_H
#define ORC_WORKLOAD_H

#include <errno.h>

/*
 * Each TRY is one thing asked of the kernel; it counts if it came out right. A
 * kernel that was configured without a system call is not asked for it.
 */
#define TRY(condition)                                   \
	do {                                             \
		errno = 0;                               \
		if (condition)                           \
			++*asked, done++;                \
		else if (errno != ENOSYS)                \
			++*asked;                        \
	} while (0)

/*
 * One part of the workload: makes the kernel run a kind of entry code, and
 * counts what the kernel did as asked. "asked" is set by the part itself. A wide one
 * makes it run as much of its code as there is, and takes its time.
 */
struct part {
	const char *name;
	int (*run)(int *asked);
	int wide;
};

extern const struct part workload[];
extern const unsigned int workload_parts;

int workload_cpus(void);
int events(int *asked);
int state(int *asked);
int memory(int *asked);
int calls(int *asked);
int trace(int *asked);
int tree(int *asked);

#endif
