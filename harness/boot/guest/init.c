// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Init of the guest: runs the workload, tells the host over the evidence channel
 * what came out of it, and powers off. Options on the kernel command line:
 *
 *	orc.nonce=HEX	starts every record
 *	orc.port=N	I/O port of the evidence channel (0xe9)
 *	orc.memory=N	physical address of memory to use in place of the port
 *	orc.hold=SECONDS	keep the workload running that long, for a probe, and tell
 *				nothing of it
 *	orc.wide=1	run those parts of the workload, too, that are there to be wide
 *	orc.nmi=1	wait for the host to inject an NMI at "mark nmi"
 *	orc.panic=1	crash the kernel after hello
 *	orc.hang=1	never come to an end after hello
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/klog.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>

#include "evidence.h"
#include "workload.h"

#define MODULES "/modules"
#define MAX_MODULES 64

static char buffer[256 << 10];

/* Send what the kernel has logged since the last call. */
static void kernel_log(const char *name)
{
	static int fd = -1;
	char record[8192], *text, *end;
	size_t size = 0;
	ssize_t n;

	if (fd < 0) {
		mkdir("/dev", 0755);
		mknod("/dev/kmsg", S_IFCHR | 0600, 1 << 8 | 11);
		fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		if (fd < 0) {
			ev_line("lack log no /dev/kmsg: %s", strerror(errno));
			return;
		}
	}
	for (;;) {
		n = read(fd, record, sizeof(record) - 1);
		if (n < 0 && errno == EPIPE) {
			ev_line("fact log.overrun 1");
			continue;
		}
		if (n <= 0)
			break;
		/* "6,339,5140900,-;text\n SUBSYSTEM=...\n" */
		record[n] = 0;
		text = strchr(record, ';');
		if (!text)
			continue;
		end = strchr(++text, '\n');
		n = (end ? end : record + n) - text;
		if (size + n + 1 > sizeof(buffer)) {
			ev_text(name, buffer, size);
			size = 0;
		}
		memcpy(buffer + size, text, n);
		size += n;
		buffer[size++] = '\n';
	}
	ev_text(name, buffer, size);
}

static int put(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), n = -1;

	if (fd >= 0) {
		n = write(fd, value, strlen(value));
		close(fd);
	}
	return n == (int)strlen(value);
}

/* The number after a line's name in /proc/interrupts, summed over CPUs. */
static long interrupts(const char *name)
{
	static char table[64 << 10];
	long sum = 0;
	char *at;

	if (ev_slurp("/proc/interrupts", table, sizeof(table)) < 0)
		return -1;
	at = strstr(table, name);
	if (!at)
		return -1;
	at += strlen(name);
	for (int i = 0; i < workload_cpus(); i++)
		sum += strtol(at, &at, 10);
	return sum;
}

/* The host injects an NMI when it sees the mark; wait for its count to move. */
static void nmi(void)
{
	struct timespec nap = { 0, 2000000 };
	long before = interrupts("NMI:");
	int i;

	ev_line("mark nmi");
	for (i = 0; i < 2500 && interrupts("NMI:") == before; i++)
		nanosleep(&nap, NULL);
	ev_line("part nmi %d 1", interrupts("NMI:") > before);
}

static void sysrq(const char *key, const char *name)
{
	if (access("/proc/sysrq-trigger", W_OK))
		ev_line("lack %s no /proc/sysrq-trigger", name);
	else
		ev_line("part %s %d 1", name, put("/proc/sysrq-trigger", key));
	kernel_log(name);
}

static int load(const char *name)
{
	char path[512];
	long result;
	int fd;

	snprintf(path, sizeof(path), MODULES "/%s", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno;
	result = syscall(SYS_finit_module, fd, "", 0);
	result = result ? errno : 0;
	close(fd);
	return result;
}

/*
 * Load in passes until none changes: a module whose symbols are missing waits
 * for the module that has them. Unload in the reverse order.
 */
static void modules(void)
{
	char *names[MAX_MODULES], *loaded[MAX_MODULES], *dot;
	int count = 0, done = 0, unloaded = 0, progress, error;
	struct dirent *entry;
	DIR *dir = opendir(MODULES);

	while (dir && (entry = readdir(dir)) && count < MAX_MODULES)
		if (entry->d_name[0] != '.')
			names[count++] = strdup(entry->d_name);
	do {
		progress = 0;
		for (int i = 0; i < count; i++) {
			if (!names[i])
				continue;
			error = load(names[i]);
			if (error == ENOENT)
				continue;
			progress = 1;
			if (error)
				ev_line("fact module.%s %s", names[i], strerror(error));
			else
				loaded[done++] = names[i];
			names[i] = NULL;
		}
	} while (progress);
	for (int i = 0; i < count; i++)
		if (names[i])
			ev_line("fact module.%s unresolved symbols", names[i]);
	ev_file("modules", "/proc/modules");
	for (int i = done - 1; i >= 0; i--) {
		dot = strstr(loaded[i], ".ko");
		if (dot)
			*dot = 0;
		for (char *c = loaded[i]; *c; c++)
			if (*c == '-')
				*c = '_';
		if (syscall(SYS_delete_module, loaded[i], O_NONBLOCK))
			ev_line("fact module.%s cannot unload: %s", loaded[i],
				strerror(errno));
		else
			unloaded++;
	}
	ev_line("part modules %d %d", done, count);
	ev_line("part unload %d %d", unloaded, done);
	kernel_log("log-modules");
}

/* Children asleep in kinds of waits, so that their kernel stacks are known. */
static void sleeper(int kind)
{
	struct timespec nap = { 600, 0 };
	int ends[2], word = 0;
	sigset_t none;

	switch (kind) {
	case 0:
		nanosleep(&nap, NULL);
		break;
	case 1:
		if (!pipe(ends) && read(ends[0], &word, 1))
			break;
		break;
	case 2:
		syscall(SYS_futex, &word, 0 /* FUTEX_WAIT */, 0, NULL, NULL, 0);
		break;
	case 3:
		sigemptyset(&none);
		sigsuspend(&none);
		break;
	case 4:
		if (!fork())
			pause();
		wait(NULL);
		break;
	case 5:
		kill(getpid(), SIGSTOP);
		break;
	}
	_exit(0);
}

#define SLEEPERS 6

static void stacks(void)
{
	struct timespec nap = { 0, 20000000 };
	char path[64], name[64], comm[32];
	pid_t sleepers[SLEEPERS];
	struct dirent *entry;
	int done = 0, asked = 0;
	ssize_t n;
	DIR *dir;

	if (access("/proc/self/stack", R_OK)) {
		ev_line("lack stacks no /proc/self/stack");
		return;
	}
	for (int i = 0; i < SLEEPERS; i++) {
		sleepers[i] = fork();
		if (!sleepers[i]) {
			setpgid(0, 0);
			sleeper(i);
		}
	}
	nanosleep(&nap, NULL);
	dir = opendir("/proc");
	while (dir && (entry = readdir(dir))) {
		int pid = atoi(entry->d_name);

		if (pid <= 0)
			continue;
		asked++;
		snprintf(path, sizeof(path), "/proc/%d/comm", pid);
		n = ev_slurp(path, comm, sizeof(comm));
		comm[n > 0 ? strcspn(comm, "\n ") : 0] = 0;
		snprintf(path, sizeof(path), "/proc/%d/stack", pid);
		n = ev_slurp(path, buffer, sizeof(buffer));
		if (n < 0)
			continue;
		done++;
		snprintf(name, sizeof(name), "stack/%d/%.16s", pid, comm);
		ev_text(name, buffer, n);
	}
	if (dir)
		closedir(dir);
	for (int i = 0; i < SLEEPERS; i++) {
		kill(-sleepers[i], SIGKILL);
		kill(sleepers[i], SIGKILL);
		waitpid(sleepers[i], NULL, 0);
	}
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
	ev_line("part stacks %d %d", done, asked);
}

static void facts(void)
{
	struct utsname name;
	char *flags;
	ssize_t n;

	uname(&name);
	ev_line("fact release %s", name.release);
	ev_line("fact version %s", name.version);
	ev_line("fact cpus %d", workload_cpus());
	n = ev_slurp("/proc/cpuinfo", buffer, sizeof(buffer));
	flags = n > 0 ? strstr(buffer, "\nflags") : NULL;
	if (flags && (flags = strchr(flags, ':'))) {
		n = strcspn(flags + 2, "\n");
		ev_text("cpuflags", flags + 2, n);
	}
	ev_file("interrupts-start", "/proc/interrupts");
}

static void run_workload(void)
{
	long wide = ev_number("wide", 0);

	for (unsigned int i = 0; i < workload_parts; i++) {
		int asked = 0, done;

		if (workload[i].wide && !wide)
			continue;
		done = workload[i].run(&asked);
		if (asked)
			ev_line("part %s %d %d", workload[i].name, done, asked);
		else
			ev_line("lack %s needs another CPU", workload[i].name);
	}
}

/* Run parts, from one on: all of them, or always the same. */
static long hold_until(const struct timespec *end, long part, int others)
{
	struct timespec now;
	long rounds = 0;

	do {
		const struct part *now_is = &workload[part % workload_parts];
		int asked = 0;

		if (!now_is->wide)
			now_is->run(&asked);
		part += others;
		rounds++;
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec < end->tv_sec ||
		 (now.tv_sec == end->tv_sec && now.tv_nsec < end->tv_nsec));
	return rounds;
}

/*
 * Several at once, each at another part, and one that is always at the second, which
 * is exceptions of all kinds: whatever a probe waits for comes in a few time slices.
 * They share their files, so what they come to is not counted. With two CPUs there is
 * one: a probe of tasks waits until no CPU is in the middle of something. A probe does
 * not wait for us, so that modules are loaded meanwhile.
 */
#define HOLDERS (workload_cpus() > 1 ? 1 : 3)

static void hold(long seconds)
{
	struct timespec end;
	long rounds;

	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += seconds;
	for (int i = 1; i < HOLDERS; i++)
		if (!fork()) {
			hold_until(&end, 2 * i - 1, i > 1);
			_exit(0);
		}
	modules();
	ev_line("mark hold");
	rounds = hold_until(&end, 0, 1);
	while (wait(NULL) > 0)
		;
	ev_line("fact hold.rounds %ld", rounds);
}

static void evil(void)
{
	if (ev_number("panic", 0)) {
		put("/proc/sys/kernel/sysrq", "1");
		put("/proc/sysrq-trigger", "c");
	}
	if (ev_number("hang", 0))
		for (;;)
			asm volatile("pause");
}

/* The workload once, and the traces that the kernel prints of itself. */
static void tell(void)
{
	run_workload();
	modules();
	stacks();
	/* The traces that follow are evidence; the console need not repeat them. */
	klogctl(8 /* console level */, NULL, 4);
	put("/proc/sys/kernel/sysrq", "1");
	if (ev_number("nmi", 0))
		nmi();
	sysrq("l", "backtrace");
	sysrq("t", "tasks");
	klogctl(8, NULL, 7);
}

int main(int argc, char **argv)
{
	long held;

	if (argc > 1 && !strcmp(argv[1], "child"))
		return 7;
	ev_open();
	evil();
	facts();
	kernel_log("log-boot");
	held = ev_number("hold", 0);
	if (held)
		hold(held);
	else
		tell();
	ev_file("interrupts-end", "/proc/interrupts");
	if (ev_slurp("/proc/sys/kernel/tainted", buffer, sizeof(buffer)) > 0)
		ev_line("fact tainted %s", buffer);
	kernel_log("log-end");
	ev_line("done %lu", ev_records);
	sync();
	reboot(RB_POWER_OFF);
	reboot(RB_AUTOBOOT);
	return 1;
}
