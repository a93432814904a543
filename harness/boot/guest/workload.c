// SPDX-License-Identifier: GPL-2.0-or-later
/* The workload: what userspace does so that the kernel's entry code runs. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <sys/times.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "workload.h"

#define PAGE 4096
int workload_cpus(void)
{
	return sysconf(_SC_NPROCESSORS_ONLN);
}

static int files(int *asked)
{
	char buffer[256] = "0123456789abcdef";
	struct iovec iov = { buffer, 16 };
	struct statfs fs;
	struct stat st;
	int done = 0, fd, other;

	TRY(!mkdir("/w", 0755) || errno == EEXIST);
	TRY((fd = open("/w/a", O_RDWR | O_CREAT | O_TRUNC, 0600)) >= 0);
	TRY(write(fd, buffer, 16) == 16);
	TRY(writev(fd, &iov, 1) == 16);
	TRY(pwrite(fd, buffer, 16, PAGE) == 16);
	TRY(lseek(fd, 0, SEEK_SET) == 0);
	TRY(read(fd, buffer, 16) == 16);
	TRY(readv(fd, &iov, 1) == 16);
	TRY(pread(fd, buffer, 16, PAGE) == 16);
	TRY(!fstat(fd, &st) && st.st_size == PAGE + 16);
	TRY(!stat("/w/a", &st));
	TRY(!ftruncate(fd, 100));
	TRY(!fchmod(fd, 0640));
	TRY(!access("/w/a", R_OK));
	TRY(!link("/w/a", "/w/b"));
	TRY(!rename("/w/b", "/w/c"));
	TRY(!symlink("/w/c", "/w/d"));
	TRY(readlink("/w/d", buffer, sizeof(buffer)) == 4);
	TRY((other = dup(fd)) >= 0);
	TRY(fcntl(other, F_GETFL) >= 0);
	TRY(!close(other));
	TRY(!statfs("/w", &fs));
	TRY(!unlink("/w/d") && !unlink("/w/c") && !unlink("/w/a"));
	TRY(!close(fd));
	TRY(!rmdir("/w"));
	TRY(close(fd) == -1 && errno == EBADF);
	TRY(open("/w/none", O_RDONLY) == -1 && errno == ENOENT);
	return done;
}

static int syscalls(int *asked)
{
	struct rusage usage;
	struct utsname name;
	struct timespec ts;
	struct sysinfo info;
	struct rlimit limit;
	struct tms tms;
	char cwd[64];
	int done = 0;

	for (int i = 0; i < 20; i++) {
		TRY(syscall(SYS_getpid) > 0);
		TRY(syscall(SYS_getppid) >= 0);
		TRY(syscall(SYS_gettid) > 0);
		TRY(syscall(SYS_getuid) == 0);
		TRY(syscall(SYS_clock_gettime, CLOCK_REALTIME, &ts) == 0);
		TRY(syscall(SYS_clock_gettime, CLOCK_BOOTTIME, &ts) == 0);
		TRY(!getrusage(RUSAGE_SELF, &usage));
		TRY(!uname(&name));
		TRY(!sysinfo(&info));
		TRY(!getrlimit(RLIMIT_STACK, &limit));
		TRY(times(&tms) != -1);
		TRY(getcwd(cwd, sizeof(cwd)));
		TRY(!sched_yield());
		TRY(umask(022) <= 0777);
		TRY(getpriority(PRIO_PROCESS, 0) == 0);
		TRY(!prctl(PR_SET_NAME, "workload", 0, 0, 0));
		TRY(sbrk(PAGE) != (void *)-1 && sbrk(-PAGE) != (void *)-1);
		/* Numbers past the table, and ones that were never given out. */
		TRY(syscall(9999) == -1 && errno == ENOSYS);
		TRY(syscall(-2L) == -1 && errno == ENOSYS);
	}
	return done + files(asked);
}

static sigjmp_buf fault_return;
static volatile int fault_signal;

static void on_fault(int signal)
{
	fault_signal = signal;
	siglongjmp(fault_return, 1);
}

/* Run one faulting access; 1 if it ended in the signal expected. */
#define FAULTS(expected, statement)                                        \
	({                                                                 \
		fault_signal = 0;                                          \
		if (!sigsetjmp(fault_return, 1)) {                         \
			statement;                                         \
		}                                                          \
		fault_signal == (expected);                                \
	})

static void catch_faults(void (*handler)(int))
{
	static const int signals[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP };
	struct sigaction action = { .sa_handler = handler };

	for (unsigned int i = 0; i < sizeof(signals) / sizeof(*signals); i++)
		sigaction(signals[i], &action, NULL);
}

static int traps(int *asked)
{
	volatile int done = 0;
	volatile int *volatile nowhere = (int *)8;
	char *file;
	int fd;

	catch_faults(on_fault);
	for (int i = 0; i < 10; i++) {
		TRY(FAULTS(SIGSEGV, *nowhere = 1));
		TRY(FAULTS(SIGSEGV, (void)*(volatile char *)0xffffffff81000000));
		TRY(FAULTS(SIGFPE, asm volatile("xorl %%ecx, %%ecx; idivl %%ecx"
						   ::: "eax", "ecx", "edx", "cc")));
		TRY(FAULTS(SIGILL, asm volatile("ud2")));
		TRY(FAULTS(SIGTRAP, asm volatile("int3")));
		TRY(FAULTS(SIGSEGV, asm volatile("hlt")));
		/* A non-canonical address is #GP, on the stack segment #SS. */
		TRY(FAULTS(SIGSEGV, (void)*(volatile char *)(1UL << 63)));
		TRY(FAULTS(SIGTRAP, asm volatile("lea -128(%%rsp), %%rsp; pushf;"
						    "orl $0x100, (%%rsp); popf; nop;"
						    "lea 128(%%rsp), %%rsp"
						    ::: "cc", "memory")));
	}
	fd = open("/bus", O_RDWR | O_CREAT | O_TRUNC, 0600);
	file = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
	TRY(FAULTS(SIGBUS, (void)*(volatile char *)file));
	munmap(file, PAGE);
	close(fd);
	unlink("/bus");
	catch_faults(SIG_DFL);
	return done;
}

static int faults(int *asked)
{
	const int pages = 256;
	volatile int done = 0;
	int status;
	char *map = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pid_t pid;

	TRY(map != MAP_FAILED);
	for (int i = 0; i < pages; i++)
		TRY(map[i * PAGE] == 0);
	for (int i = 0; i < pages; i++)
		map[i * PAGE] = i;
	pid = fork();
	if (!pid) {
		/* Copy on write in the child; the parent's bytes must stay. */
		for (int i = 0; i < pages; i++)
			map[i * PAGE]++;
		_exit(0);
	}
	TRY(waitpid(pid, &status, 0) == pid && !status);
	for (int i = 0; i < pages; i++)
		TRY(map[i * PAGE] == (char)i);
	TRY(!mprotect(map, PAGE, PROT_READ));
	catch_faults(on_fault);
	TRY(FAULTS(SIGSEGV, *(volatile char *)map = 1));
	catch_faults(SIG_DFL);
	TRY(mremap(map, pages * PAGE, pages * PAGE / 2, 0) == map);
	TRY(!munmap(map, pages * PAGE / 2));
	return done;
}

static volatile int signals_seen;

static void on_signal(int signal)
{
	signals_seen++;
	if (signal == SIGUSR1)
		raise(SIGUSR2);
}

static int signals(int *asked)
{
	static char alternate[64 << 10];
	stack_t stack = { .ss_sp = alternate, .ss_size = sizeof(alternate) };
	struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_ONSTACK };
	sigset_t all, old, pending;
	int done = 0;

	signals_seen = 0;
	TRY(!sigaltstack(&stack, NULL));
	sigaction(SIGUSR1, &action, NULL);
	sigaction(SIGUSR2, &action, NULL);
	for (int i = 0; i < 50; i++)
		TRY(!kill(getpid(), SIGUSR1));
	TRY(signals_seen == 100);
	sigfillset(&all);
	TRY(!sigprocmask(SIG_BLOCK, &all, &old));
	TRY(!raise(SIGUSR2) && !sigpending(&pending) &&
	    sigismember(&pending, SIGUSR2));
	TRY(!sigprocmask(SIG_SETMASK, &old, NULL) && signals_seen == 101);
	return done;
}

static volatile int ticks;

static void on_alarm(int signal)
{
	(void)signal;
	ticks++;
}

static int timers(int *asked)
{
	struct sigaction action = { .sa_handler = on_alarm };
	struct itimerval every = { { 0, 2000 }, { 0, 2000 } }, off = { 0 };
	struct timespec nap = { 0, 1000000 }, now;
	time_t deadline;
	int done = 0;

	ticks = 0;
	sigaction(SIGALRM, &action, NULL);
	clock_gettime(CLOCK_MONOTONIC, &now);
	deadline = now.tv_sec + 10;
	TRY(!setitimer(ITIMER_REAL, &every, NULL));
	/* Busy in user mode: each tick interrupts it. */
	do
		clock_gettime(CLOCK_MONOTONIC, &now);
	while (ticks < 20 && now.tv_sec < deadline);
	TRY(!setitimer(ITIMER_REAL, &off, NULL));
	TRY(ticks >= 20);
	for (int i = 0; i < 20; i++)
		TRY(!nanosleep(&nap, NULL));
	return done;
}

static int processes(int *asked)
{
	volatile int done = 0, i;
	int status;

	for (i = 0; i < 8; i++) {
		pid_t pid = i & 1 ? vfork() : fork();

		if (!pid) {
			execl("/init", "/init", "child", NULL);
			_exit(1);
		}
		TRY(waitpid(pid, &status, 0) == pid && WIFEXITED(status) &&
		    WEXITSTATUS(status) == 7);
	}
	return done;
}

static int pipes(int *asked)
{
	int there[2], back[2], done = 0, status;
	char c = 0;
	pid_t pid;

	TRY(!pipe(there) && !pipe(back));
	pid = fork();
	if (!pid) {
		close(there[1]);
		while (read(there[0], &c, 1) == 1) {
			c++;
			if (write(back[1], &c, 1) != 1)
				break;
		}
		_exit(0);
	}
	for (int i = 0; i < 100; i++) {
		struct pollfd poller = { back[0], POLLIN, 0 };

		c = i;
		TRY(write(there[1], &c, 1) == 1 && poll(&poller, 1, 5000) == 1 &&
		    read(back[0], &c, 1) == 1 && c == (char)(i + 1));
	}
	close(there[0]), close(there[1]), close(back[0]), close(back[1]);
	TRY(waitpid(pid, &status, 0) == pid && !status);
	return done;
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static volatile int shared, threads_stop;

static void *contend(void *cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((intptr_t)cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
	for (int i = 0; i < 200; i++) {
		pthread_mutex_lock(&lock);
		shared++;
		if (!(i % 20))
			sched_yield();
		pthread_mutex_unlock(&lock);
	}
	return NULL;
}

static int threads(int *asked)
{
	const int count = 4;
	int done = 0, cpus = workload_cpus();
	pthread_t thread[4];

	shared = 0;
	for (intptr_t i = 0; i < count; i++)
		TRY(!pthread_create(&thread[i], NULL, contend, (void *)(i % cpus)));
	for (int i = 0; i < count; i++)
		TRY(!pthread_join(thread[i], NULL));
	TRY(shared == count * 200);
	return done;
}

static void *spin(void *cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((intptr_t)cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
	while (!threads_stop)
		asm volatile("pause");
	return NULL;
}

/* TLB shootdowns, and moves of this task from one CPU to the other. */
static int ipis(int *asked)
{
	int done = 0, cpus = workload_cpus();
	cpu_set_t set, all;
	pthread_t thread;

	if (cpus < 2)
		return 0;
	sched_getaffinity(0, sizeof(all), &all);
	threads_stop = 0;
	TRY(!pthread_create(&thread, NULL, spin, (void *)1));
	CPU_ZERO(&set);
	CPU_SET(0, &set);
	sched_setaffinity(0, sizeof(set), &set);
	for (int i = 0; i < 50; i++) {
		char *map = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

		TRY(map != MAP_FAILED && !mprotect(map, PAGE, PROT_READ) &&
		    !munmap(map, 4 * PAGE));
	}
	threads_stop = 1;
	TRY(!pthread_join(thread, NULL));
	for (int i = 0; i < 20; i++) {
		CPU_ZERO(&set);
		CPU_SET(i % cpus, &set);
		TRY(!sched_setaffinity(0, sizeof(set), &set));
	}
	sched_setaffinity(0, sizeof(all), &all);
	return done;
}

const struct part workload[] = {
	{ "syscalls", syscalls }, { "traps", traps },	      { "faults", faults },
	{ "signals", signals },	  { "timers", timers },	      { "events", events },
	{ "pipes", pipes },
	{ "threads", threads },	  { "processes", processes }, { "ipis", ipis },
	{ "state", state, 1 },	  { "memory", memory, 1 },    { "calls", calls, 1 },
	{ "trace", trace, 1 },	  { "tree", tree, 1 },
};
const unsigned int workload_parts = sizeof(workload) / sizeof(*workload);
