// SPDX-License-Identifier: GPL-2.0-or-later
#include "nested.h"

#include <string.h>

#include "map.h"

static struct map guests;	/* by the address of the VMCB */
/*
 * A nested guest's host may have its text where the guest has its own. What is
 * executed between a vmrun and what is behind it is the guest's.
 */
static const uint8_t *behind_vmrun;	/* its code */
static bool in_guest;

/* The host of nested guests is about to run one, whose VMCB is at RAX. */
static void on_vmrun(unsigned int vcpu, void *unused)
{
	uint64_t vmcb = machine_register(REG_AX);

	(void)unused;
	if (!map_get(&guests, vmcb))
		map_put(&guests, vmcb, new_cpu());
	running[vcpu] = map_get(&guests, vmcb);
	in_guest = true;
}

static void on_vmexit(unsigned int vcpu, void *unused)
{
	(void)vcpu;
	(void)unused;
	in_guest = false;
}

static bool is_vmrun(const struct qemu_plugin_insn *insn)
{
	static const uint8_t vmrun[] = { 0x0f, 0x01, 0xd8 };
	uint8_t code[sizeof(vmrun)];

	return qemu_plugin_insn_size(insn) == sizeof(vmrun) &&
	       qemu_plugin_insn_data(insn, code, sizeof(code)) == sizeof(code) &&
	       !memcmp(code, vmrun, sizeof(code));
}

bool nested_is_host(const struct qemu_plugin_tb *tb)
{
	struct qemu_plugin_insn *first = qemu_plugin_tb_get_insn(tb, 0);
	bool exit = behind_vmrun && qemu_plugin_insn_haddr(first) == behind_vmrun;

	if (in_guest && !exit)
		return false;
	if (exit)
		qemu_plugin_register_vcpu_insn_exec_cb(first, on_vmexit,
						       QEMU_PLUGIN_CB_NO_REGS, NULL);
	for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++) {
		struct qemu_plugin_insn *at = qemu_plugin_tb_get_insn(tb, i);

		if (!is_vmrun(at))
			continue;
		behind_vmrun = (uint8_t *)qemu_plugin_insn_haddr(at) +
			       qemu_plugin_insn_size(at);
		qemu_plugin_register_vcpu_insn_exec_cb(at, on_vmrun,
						       QEMU_PLUGIN_CB_R_REGS, NULL);
	}
	return true;
}
