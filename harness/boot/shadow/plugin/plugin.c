// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A plugin of QEMU's TCG that checks the kernel's ORC table at every instruction the
 * guest executes. Arguments:
 *
 *	table=FILE	the table (harness/boot/shadow/table.py)
 *	out=PREFIX	where PREFIX.report, .places and .modules go at the end
 *	bounce=BYTES	that a hypervisor pushes below hardware frames
 *	nested=on	the guest runs in a guest of ours
 *	bp=on		check where the caller's RBP was saved, too
 *	module=ADDRESS	of unwind_module_init(), which is given modules' tables
 *	idle=on		check nothing; bench/shadow.py compares with that
 *
 * It judges nothing: what the numbers mean is harness/boot/shadow/'s to say.
 */
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "module.h"
#include "nested.h"
#include "output.h"
#include "places.h"
#include "table.h"

#define SPINS 64
#define MODULE_NAME_OFFSET 24	/* struct module: an int, a list_head, the name */
/* Below is the half of the user; the first TiBs above belong to a hypervisor. */
#define KERNEL_HALF 0xffff880000000000

int qemu_plugin_version = 4;

struct cpu *running[MAX_CPUS];
static struct qemu_plugin_register *registers[REG_COUNT];
static GByteArray *bytes;
static const char *out = "shadow";
static bool idle;
static uint64_t module_init;	/* the function that is given modules' tables */

static void register_callbacks(qemu_plugin_id_t id);

static const char *const names[REG_COUNT] = {
	[REG_SP] = "rsp", [REG_BP] = "rbp", [REG_AX] = "rax", [REG_DX] = "rdx",
	[REG_DI] = "rdi", [REG_R10] = "r10", [REG_R13] = "r13",
	[REG_SI] = "rsi", [REG_CX] = "rcx",
};

uint64_t machine_register(enum orc_reg reg)
{
	bytes->len = 0;
	qemu_plugin_read_register(registers[reg], bytes);
	return *(uint64_t *)bytes->data;
}

bool machine_read(uint64_t address, void *data, size_t size)
{
	if (!qemu_plugin_read_memory_vaddr(address, bytes, size))
		return false;
	memcpy(data, bytes->data, size);
	return true;
}

/*
 * Several CPUs run in threads of their own, and what is kept of stacks and instructions
 * is of all. (In one thread QEMU 10 would tell us the CPU that translated a block, not
 * the one that executes it: gen_cpu_index() of accel/tcg/plugin-gen.c.)
 */
static bool several;
static atomic_flag busy = ATOMIC_FLAG_INIT;

static void lock(void)
{
	for (unsigned int tries = 1; several; tries++) {
		if (!atomic_flag_test_and_set_explicit(&busy, memory_order_acquire))
			return;
		if (!(tries % SPINS))
			sched_yield();
	}
}

static void unlock(void)
{
	if (several)
		atomic_flag_clear_explicit(&busy, memory_order_release);
}

static void on_first(unsigned int vcpu, void *insn)
{
	lock();
	step(running[vcpu], insn, machine_register(REG_SP), true);
	unlock();
}

static void on_inner(unsigned int vcpu, void *insn)
{
	lock();
	step(running[vcpu], insn, machine_register(REG_SP), false);
	unlock();
}

/* Where it is known what the instruction before did to RSP, as of most. */
static void on_known(unsigned int vcpu, void *insn)
{
	struct cpu *cpu;

	lock();
	cpu = running[vcpu];
	step(cpu, insn, cpu->rsp + cpu->last->sp_delta, false);
	unlock();
}

struct cpu *new_cpu(void)
{
	struct cpu *cpu = malloc(sizeof(*cpu));

	if (!cpu)
		abort();
	cpu_init(cpu);
	return cpu;
}

static struct insn *translated(const struct qemu_plugin_insn *from)
{
	uint8_t code[CODE_BYTES] = { 0 };
	struct insn *insn;

	qemu_plugin_insn_data(from, code, sizeof(code));
	insn = place_of(qemu_plugin_insn_vaddr(from), code);
	if (is_ud2(code))	/* what is behind it may matter, and is not translated */
		machine_read(insn->pc, code, sizeof(code));
	decode(insn, code, qemu_plugin_insn_size(from));
	if (!control_holds(insn))
		table_claim(insn);
	return insn;
}

/* Tell whether the claim is computed from a register that is not RSP. */
static bool reads_more(const struct insn *insn)
{
	return insn->type != TYPE_UNDEFINED && insn->type != TYPE_END_OF_STACK &&
	       insn->sp_reg != REG_SP && insn->sp_reg != REG_SP_INDIRECT;
}

static void instrument(struct qemu_plugin_insn *at, struct insn *insn,
		       const struct insn *before)
{
	enum qemu_plugin_cb_flags flags = QEMU_PLUGIN_CB_R_REGS;
	qemu_plugin_vcpu_udata_cb_t callback = on_inner;

	if (!before)
		callback = on_first;
	else if (before->sp_known)
		callback = on_known;
	if (callback == on_known && !reads_more(insn) && !options.bp)
		flags = QEMU_PLUGIN_CB_NO_REGS;
	qemu_plugin_register_vcpu_insn_exec_cb(at, callback, flags, insn);
}

/*
 * unwind_module_init(mod, orc_ip, orc_ip_size, orc, orc_size) of 4.14 and later is
 * called when a module is relocated, and before any of its text runs.
 */
static void on_module(unsigned int vcpu, void *unused)
{
	uint64_t module, at;
	char name[MODULE_NAME_BYTES];
	struct orc_entry *entries;
	int32_t *distances;
	size_t count, size;

	(void)vcpu;
	(void)unused;
	lock();
	module = machine_register(REG_DI);
	at = machine_register(REG_SI);
	count = machine_register(REG_DX) / sizeof(*distances);
	size = count * sizeof(*entries);
	entries = malloc(size + 1);
	distances = calloc(count + 1, sizeof(*distances));
	if (!entries || !distances)
		abort();
	if (machine_read(module + MODULE_NAME_OFFSET, name, sizeof(name)) &&
	    machine_read(at, distances, count * sizeof(*distances)) &&
	    machine_read(machine_register(REG_CX), entries, size))
		module_add(name, table_rows() + module_rows(), at, distances, entries, count);
	else
		counts.modules_unread++;
	unlock();
	free(entries);
	free(distances);
}

/*
 * A block is translated once for all addresses that its page is mapped at. The kernel
 * begins where its memory is, and what it calls there it calls again where it is linked:
 * once it is there, all is translated anew.
 */
static bool begins(qemu_plugin_id_t id)
{
	static bool begun;

	if (begun)
		return false;
	begun = true;
	qemu_plugin_reset(id, register_callbacks);
	return true;
}

static void take_block(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	size_t count = qemu_plugin_tb_n_insns(tb);
	struct insn *before = NULL;

	if (options.nested && nested_is_host(tb))
		return;
	for (size_t i = 0; i < count; i++) {
		struct qemu_plugin_insn *at = qemu_plugin_tb_get_insn(tb, i);
		uint64_t pc = qemu_plugin_insn_vaddr(at);
		struct insn *insn;

		if (pc < KERNEL_HALF || (options.nested && !table_knows(pc)))
			continue;
		if (begins(id))
			return;
		insn = translated(at);
		instrument(at, insn, before);
		if (pc == module_init && !options.nested)
			qemu_plugin_register_vcpu_insn_exec_cb(
				at, on_module, QEMU_PLUGIN_CB_R_REGS, NULL);
		before = insn;
	}
}

static void on_translate(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	lock();
	take_block(id, tb);
	unlock();
}

static void on_cpu(qemu_plugin_id_t id, unsigned int vcpu)
{
	GArray *all = qemu_plugin_get_registers();

	(void)id;
	lock();
	running[vcpu] = new_cpu();
	for (size_t i = 0; i < all->len; i++) {
		qemu_plugin_reg_descriptor *one =
			&g_array_index(all, qemu_plugin_reg_descriptor, i);

		for (size_t reg = 0; reg < REG_COUNT; reg++)
			if (names[reg] && !strcmp(one->name, names[reg]))
				registers[reg] = one->handle;
	}
	g_array_free(all, TRUE);
	unlock();
}

static void at_exit(qemu_plugin_id_t id, void *data)
{
	(void)id;
	(void)data;
	finish();
	output_write(out);
}

static void register_callbacks(qemu_plugin_id_t id)
{
	if (!idle)
		qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
	qemu_plugin_register_atexit_cb(id, at_exit, NULL);
}

static bool take(const char *argument)
{
	if (g_str_has_prefix(argument, "table="))
		return table_load(argument + strlen("table="));
	if (g_str_has_prefix(argument, "out="))
		out = argument + strlen("out=");
	else if (g_str_has_prefix(argument, "bounce="))
		options.bounce = strtoull(argument + strlen("bounce="), NULL, 0);
	else if (g_str_has_prefix(argument, "module="))
		module_init = strtoull(argument + strlen("module="), NULL, 0);
	else if (!strcmp(argument, "nested=on"))
		options.nested = true;
	else if (!strcmp(argument, "bp=on"))
		options.bp = true;
	else if (!strcmp(argument, "idle=on"))
		idle = true;
	else
		return false;
	return true;
}

int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc,
			char **argv)
{
	for (int i = 0; i < argc; i++)
		if (!take(argv[i])) {
			fprintf(stderr, "shadow: cannot use %s\n", argv[i]);
			return -1;
		}
	if (strcmp(info->target_name, "x86_64") ||
	    info->system.max_vcpus > (options.nested ? 1 : MAX_CPUS)) {
		fprintf(stderr, "shadow: not made for %s with %d CPUs\n",
			info->target_name, info->system.max_vcpus);
		return -1;
	}
	several = info->system.max_vcpus > 1;
	bytes = g_byte_array_new();
	qemu_plugin_register_vcpu_init_cb(id, on_cpu);
	register_callbacks(id);
	return 0;
}
