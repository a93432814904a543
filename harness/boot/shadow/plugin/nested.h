/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Nested: which CPU each of the machine's runs, where that may be a guest's. */
#ifndef NESTED_H
#define NESTED_H

#include "check.h"
#include "qemu.h"

#define MAX_CPUS 64

/*
 * The CPU that each of the machine's runs: itself, or that of a nested guest whose
 * VMCB was the last to be run there.
 */
extern struct cpu *running[MAX_CPUS];

struct cpu *new_cpu(void);

/* Watch the host of nested guests; true if the block is the host's. */
bool nested_is_host(const struct qemu_plugin_tb *tb);

#endif
