// SPDX-License-Identifier: GPL-2.0-or-later
/* State: what a task has of the CPU beside its registers, and the traps it raises. */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/ucontext.h>

#include "apart.h"

#define PAGE 4096
#define VSYSCALL_TIME 0xffffffffff600400
#define TURNS 20

static void overflow(void)
{
	asm volatile("int $4");
}

static void bounds(void)
{
	asm volatile("int $5");
}

static void x87(void)
{
	static const unsigned short strict = 0x300;
	static const double zero, one = 1;

	asm volatile("fninit; fldcw %0; fldl %1; fdivl %2; fwait"
		     :: "m"(strict), "m"(one), "m"(zero));
}

static void sse(void)
{
	static const unsigned int strict = 0;
	volatile float zero = 0;

	asm volatile("ldmxcsr %0; divss %1, %%xmm0" :: "m"(strict), "m"(zero) : "xmm0");
}

static void misaligned(void)
{
	static char bytes[16];

	asm volatile("pushfq; orl $0x40000, (%%rsp); popfq; movl (%0), %%eax"
		     :: "r"(bytes + 1) : "eax", "memory");
}

static void io(void)
{
	asm volatile("inb $0x80, %%al" ::: "al");
}

static void old_call(void)
{
	((long (*)(long *))VSYSCALL_TIME)(NULL);
	(void)*(volatile char *)VSYSCALL_TIME;
}

/* In 32-bit code, which needs no kernel for that: bound, into, an old system call. */
static void narrow(const unsigned char *code, size_t size)
{
	unsigned char *low = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	struct {
		uint32_t offset;
		uint16_t selector;
	} __attribute__((packed)) there = { (uint32_t)(uintptr_t)low, 0x23 };

	memcpy(low, code, size);
	asm volatile("mov %1, %%esp; ljmp *%0"
		     :: "m"(there), "r"((uint32_t)(uintptr_t)low + PAGE - 64) : "memory");
}

static void narrow_bound(void)
{
	static const unsigned char code[] = { 0x31, 0xc0, 0x48, 0x62, 0x04, 0x24 };

	narrow(code, sizeof(code));
}

static void narrow_into(void)
{
	static const unsigned char code[] = { 0xb0, 0x7f, 0x04, 0x7f, 0xce };

	narrow(code, sizeof(code));
}

static void narrow_calls(void)
{
	static const unsigned char code[] = {
		0xb8, 0x14, 0, 0, 0, 0xcd, 0x80,	/* int $0x80 */
		0x0f, 0x34,				/* sysenter */
	};

	narrow(code, sizeof(code));
}

static void narrow_syscall(void)
{
	static const unsigned char code[] = { 0x0f, 0x05 };

	narrow(code, sizeof(code));
}

static void no_time(void)
{
	prctl(PR_SET_TSC, PR_TSC_SIGSEGV, 0, 0, 0);
	usleep(1000);
	asm volatile("rdtsc" ::: "eax", "edx");
}

static void no_cpuid(void)
{
	syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0);
	usleep(1000);
	asm volatile("cpuid" ::: "eax", "ebx", "ecx", "edx");
}

static void bad_return(void)
{
	asm volatile("mov $8, %%rsp; mov $15, %%eax; syscall" ::: "memory");
}

static void no_stack(void)
{
	stack_t small = { .ss_sp = (void *)PAGE, .ss_size = 1 << 16 };
	struct sigaction action = { .sa_handler = SIG_DFL, .sa_flags = SA_ONSTACK };

	action.sa_handler = (void (*)(int))overflow;
	sigaltstack(&small, NULL);
	sigaction(SIGUSR1, &action, NULL);
	raise(SIGUSR1);
}

static void bad_fpu(int signal, siginfo_t *info, void *context)
{
	ucontext_t *ucontext = context;

	(void)signal, (void)info;
	if (ucontext->uc_mcontext.fpregs)
		memset(ucontext->uc_mcontext.fpregs, 0xff, 512);
}

static void fpu_returns(void)
{
	struct sigaction action = { .sa_sigaction = bad_fpu, .sa_flags = SA_SIGINFO };

	sigaction(SIGUSR1, &action, NULL);
	raise(SIGUSR1);
}

static void keys(void)
{
	char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int key = pkey_alloc(0, PKEY_DISABLE_WRITE);

	*page = 1;
	mprotect(page, PAGE, PROT_EXEC);
	if (key >= 0) {
		pkey_mprotect(page, PAGE, PROT_READ | PROT_WRITE, key);
		pkey_free(-1);
		*page = 2;
	}
}

static void segments(void)
{
	unsigned long base;

	syscall(SYS_arch_prctl, ARCH_SET_GS, 0x1000);
	syscall(SYS_arch_prctl, ARCH_GET_GS, &base);
	syscall(SYS_arch_prctl, ARCH_GET_FS, &base);
	syscall(SYS_arch_prctl, ARCH_GET_CPUID, 0);
	syscall(SYS_arch_prctl, 0x1022 /* ARCH_GET_XCOMP_PERM */, &base);
	syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18);
	asm volatile("mov %0, %%gs" :: "r"(0x2b));
	usleep(1000);
	asm volatile("mov %0, %%gs" :: "r"(0));
}

/* Tasks with and without these take turns. */
static void switches(void)
{
	pid_t pid;

	if (!(pid = fork())) {
		for (int i = 0; i < TURNS; i++)
			sched_yield();
		_exit(0);
	}
	prctl(PR_SET_TSC, PR_TSC_SIGSEGV, 0, 0, 0);
	prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, PR_SPEC_DISABLE, 0, 0);
	prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_INDIRECT_BRANCH, PR_SPEC_DISABLE, 0, 0);
	prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, 0, 0, 0);
	prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_L1D_FLUSH, PR_SPEC_ENABLE, 0, 0);
	ioperm(0x80, 1, 1);
	iopl(3);
	for (int i = 0; i < TURNS; i++)
		sched_yield();
	ioperm(0x80, 1, 0);
	prctl(PR_SET_TSC, PR_TSC_ENABLE, 0, 0, 0);
	waitpid(pid, NULL, 0);
}

static void all(void)
{
	static void (*const steps[])(void) = {
		overflow, bounds, x87, sse, misaligned, io, old_call, narrow_bound,
		narrow_into, narrow_calls, narrow_syscall, no_time, no_cpuid, bad_return,
		no_stack, fpu_returns, keys, segments, switches,
	};

	for (unsigned int i = 0; i < sizeof(steps) / sizeof(*steps); i++)
		risk(steps[i]);
}

int state(int *asked)
{
	int done = 0;

	TRY(apart(all));
	return done;
}
