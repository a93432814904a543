// SPDX-License-Identifier: GPL-2.0-or-later
/* Trace: one task looks into another, by ptrace, and at events, by perf. */
#define _GNU_SOURCE
#include <elf.h>
#include <fcntl.h>
#include <linux/hw_breakpoint.h>
#include <linux/perf_event.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <time.h>

#include "apart.h"

#define PAGE 4096
#define STEPS 8
#define SINGLEBLOCK 33

static volatile long watched;

static long step(int request, pid_t pid)
{
	int status;

	if (ptrace(request, pid, 0, 0))
		return -1;
	return waitpid(pid, &status, 0) == pid && WIFSTOPPED(status) ? 0 : -1;
}

static void registers(pid_t pid)
{
	static char state[16 << 10];
	static const int notes[] = { NT_PRSTATUS, NT_PRFPREG, NT_X86_XSTATE, 0x200 };
	struct user_fpregs_struct fpu;
	struct user_regs_struct regs;

	if (!ptrace(PTRACE_GETREGS, pid, 0, &regs))
		ptrace(PTRACE_SETREGS, pid, 0, &regs);
	if (!ptrace(PTRACE_GETFPREGS, pid, 0, &fpu))
		ptrace(PTRACE_SETFPREGS, pid, 0, &fpu);
	for (unsigned int i = 0; i < sizeof(notes) / sizeof(*notes); i++) {
		struct iovec iov = { state, sizeof(state) };

		if (!ptrace(PTRACE_GETREGSET, pid, notes[i], &iov))
			ptrace(PTRACE_SETREGSET, pid, notes[i], &iov);
	}
	for (size_t at = 0; at < sizeof(struct user); at += 8) {
		long word = ptrace(PTRACE_PEEKUSER, pid, at, 0);

		if (at < sizeof(regs))
			ptrace(PTRACE_POKEUSER, pid, at, word);
	}
	ptrace(PTRACE_ARCH_PRCTL, pid, &state, 0x1003 /* ARCH_GET_FS */);
	ptrace(PTRACE_PEEKDATA, pid, &watched, 0);
	ptrace(PTRACE_POKEDATA, pid, &watched, 1);
	ptrace(PTRACE_GETSIGINFO, pid, 0, state);
}

/* The kernel's accesses to what is watched hit, too. */
static void watch(pid_t pid, unsigned long control)
{
	size_t base = offsetof(struct user, u_debugreg);

	ptrace(PTRACE_POKEUSER, pid, base, &watched);
	ptrace(PTRACE_POKEUSER, pid, base + 7 * 8, control);
	step(PTRACE_CONT, pid);
	ptrace(PTRACE_PEEKUSER, pid, base + 6 * 8, 0);
	ptrace(PTRACE_POKEUSER, pid, base + 7 * 8, 0);
}

static void tracee(void)
{
	struct timespec *time = (void *)&watched;

	ptrace(PTRACE_TRACEME, 0, 0, 0);
	raise(SIGSTOP);
	for (;;) {
		watched++;
		clock_getres(CLOCK_MONOTONIC, time);
		syscall(SYS_getcwd, &watched, sizeof(watched));
		syscall(SYS_gettid);
	}
}

static void traces(void)
{
	int status;
	pid_t pid = fork();

	if (!pid)
		tracee();
	waitpid(pid, &status, 0);
	ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
	registers(pid);
	for (int i = 0; i < STEPS; i++) {
		step(PTRACE_SINGLESTEP, pid);
		step(SINGLEBLOCK, pid);
		step(PTRACE_SYSCALL, pid);
		step(PTRACE_SYSEMU, pid);
	}
	watch(pid, 1 | 0xd0000);	/* writes of four bytes */
	watch(pid, 1 | 0xf0000);
	registers(pid);
	ptrace(PTRACE_DETACH, pid, 0, SIGSTOP);
	ptrace(PTRACE_SEIZE, pid, 0, 0);
	kill(pid, SIGCONT);
	ptrace(PTRACE_INTERRUPT, pid, 0, 0);
	waitpid(pid, &status, 0);
	ptrace(PTRACE_LISTEN, pid, 0, 0);
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
}

static int event(struct perf_event_attr *attr, pid_t pid, int cpu, int group)
{
	attr->size = sizeof(*attr);
	return syscall(SYS_perf_event_open, attr, pid, cpu, group, PERF_FLAG_FD_CLOEXEC);
}

static void busy(int rounds)
{
	for (int i = 0; i < rounds; i++) {
		char *map = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

		watched++;
		munmap(map, 4 * PAGE);
	}
}

/* Count and sample one kind of event while this task does something. */
static void sample(struct perf_event_attr attr, int cpu)
{
	char values[256];
	char *ring;
	int fd;

	attr.read_format = PERF_FORMAT_GROUP | PERF_FORMAT_ID |
			   PERF_FORMAT_TOTAL_TIME_ENABLED |
			   PERF_FORMAT_TOTAL_TIME_RUNNING;
	attr.sample_type = PERF_SAMPLE_IP | PERF_SAMPLE_TID | PERF_SAMPLE_TIME |
			   PERF_SAMPLE_ADDR | PERF_SAMPLE_READ | PERF_SAMPLE_CALLCHAIN |
			   PERF_SAMPLE_CPU | PERF_SAMPLE_PERIOD | PERF_SAMPLE_REGS_USER |
			   PERF_SAMPLE_STACK_USER | PERF_SAMPLE_PHYS_ADDR |
			   PERF_SAMPLE_DATA_PAGE_SIZE | PERF_SAMPLE_CODE_PAGE_SIZE;
	attr.sample_regs_user = 0xff;
	attr.sample_stack_user = 256;
	attr.mmap = attr.comm = attr.task = attr.sample_id_all = 1;
	attr.wakeup_events = 1;
	attr.disabled = 1;
	fd = event(&attr, cpu < 0 ? 0 : -1, cpu, -1);
	if (fd < 0)
		return;
	ring = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ioctl(fd, PERF_EVENT_IOC_RESET, 0);
	ioctl(fd, PERF_EVENT_IOC_ENABLE, 0);
	busy(10);
	if (!fork())
		_exit(0);
	wait(NULL);
	usleep(1000);
	read(fd, values, sizeof(values));
	ioctl(fd, PERF_EVENT_IOC_PERIOD, &(uint64_t){ 1000 });
	ioctl(fd, PERF_EVENT_IOC_PAUSE_OUTPUT, 1);
	ioctl(fd, PERF_EVENT_IOC_DISABLE, 0);
	if (ring != MAP_FAILED)
		munmap(ring, 3 * PAGE);
	close(fd);
}

static void samples(void)
{
	struct perf_event_attr clock = { .type = PERF_TYPE_SOFTWARE, .freq = 1 };
	struct perf_event_attr counted = { .type = PERF_TYPE_SOFTWARE };
	struct perf_event_attr point = { .type = PERF_TYPE_BREAKPOINT };

	clock.config = PERF_COUNT_SW_CPU_CLOCK;
	clock.sample_freq = 4000;
	sample(clock, -1);
	sample(clock, 0);
	clock.config = PERF_COUNT_SW_TASK_CLOCK;
	sample(clock, -1);
	counted.sample_period = 1;
	counted.config = PERF_COUNT_SW_PAGE_FAULTS;
	sample(counted, -1);
	counted.config = PERF_COUNT_SW_CONTEXT_SWITCHES;
	sample(counted, -1);
	point.sample_period = 1;
	point.bp_type = HW_BREAKPOINT_W;
	point.bp_addr = (uintptr_t)&watched;
	point.bp_len = HW_BREAKPOINT_LEN_8;
	sample(point, -1);
	sample(point, 0);
	syscall(SYS_perf_event_open, NULL, 0, -1, -1, 0);
}

/* An event that starts with a program, and is inherited. */
static void inherited(void)
{
	struct perf_event_attr attr = { .type = PERF_TYPE_SOFTWARE };

	attr.config = PERF_COUNT_SW_TASK_CLOCK;
	attr.disabled = attr.enable_on_exec = attr.inherit = attr.inherit_stat = 1;
	event(&attr, 0, -1, -1);
	execl("/init", "/init", "child", NULL);
}

int trace(int *asked)
{
	static void (*const steps[])(void) = { traces, samples, inherited };

	return each_apart(steps, sizeof(steps) / sizeof(*steps), asked);
}
