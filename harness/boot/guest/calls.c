// SPDX-License-Identifier: GPL-2.0-or-later
/* Calls: system calls that few programs make, or make in few ways. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <sys/uio.h>
#include <termios.h>
#include <time.h>

#include "apart.h"

#define NEVER_NS 2000000

static uint32_t words[3];
static struct timespec soon = { 0, NEVER_NS };

static long futex(uint32_t *word, int operation, uint32_t value, void *more,
		  uint32_t *other, uint32_t last)
{
	return syscall(SYS_futex, word, operation, value, more, other, last);
}

static void *holds(void *unused)
{
	(void)unused;
	futex(words, FUTEX_LOCK_PI, 0, NULL, NULL, 0);
	usleep(3000);
	futex(words, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0);
	return NULL;
}

static void *waits(void *unused)
{
	(void)unused;
	futex(words + 1, FUTEX_WAIT, 0, NULL, NULL, 0);
	return NULL;
}

static void futexes(void)
{
	pthread_t thread, other;

	pthread_create(&thread, NULL, holds, NULL);
	usleep(1000);
	futex(words, FUTEX_TRYLOCK_PI, 0, NULL, NULL, 0);
	futex(words, FUTEX_LOCK_PI, 0, NULL, NULL, 0);
	futex(words, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0);
	pthread_join(thread, NULL);
	pthread_create(&other, NULL, waits, NULL);
	usleep(1000);
	futex(words + 1, FUTEX_CMP_REQUEUE, 0, (void *)1, words + 2, 0);
	for (int op = FUTEX_OP_SET; op <= FUTEX_OP_XOR; op++)
		futex(words + 2, FUTEX_WAKE_OP, 1, (void *)1, words + 1,
		      FUTEX_OP(op, 0, FUTEX_OP_CMP_GE, 0));
	futex(words + 1, FUTEX_WAKE, 9, NULL, NULL, 0);
	pthread_join(other, NULL);
	futex(words, FUTEX_WAIT_BITSET, 0, &soon, NULL, 1);
	futex((void *)8, FUTEX_LOCK_PI, 0, NULL, NULL, 0);
	futex((void *)8, FUTEX_WAKE_OP, 1, (void *)1, (void *)8, 0);
}

static void waits_for(void)
{
	struct timeval brief = { 0, 1000 };
	struct rusage usage;
	siginfo_t info;
	sigset_t set;
	fd_set files;
	pid_t pid;
	int fd;

	sigfillset(&set);
	if (!(pid = fork()))
		_exit(3);
	fd = syscall(SYS_pidfd_open, pid, 0);
	syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0);
	ioctl(fd, 0xff0b, 0);
	syscall(SYS_waitid, P_PID, pid, &info, WEXITED | WNOWAIT, &usage);
	syscall(SYS_waitid, P_PIDFD, fd, &info, WEXITED, &usage);
	syscall(SYS_waitid, P_ALL, 0, (void *)8, WEXITED, NULL);
	FD_ZERO(&files);
	FD_SET(0, &files);
	pselect(1, &files, NULL, NULL, &soon, &set);
	select(1, &files, NULL, NULL, &brief);
	ppoll(NULL, 0, &soon, &set);
	sigtimedwait(&set, &info, &soon);
	sigqueue(getpid(), SIGCHLD, (union sigval){ 1 });
	syscall(SYS_rt_tgsigqueueinfo, getpid(), getpid(), SIGCHLD, &info);
	syscall(SYS_restart_syscall);
}

static void schedules(void)
{
	struct {
		uint32_t size, policy;
		uint64_t flags;
		uint32_t nice, priority;
		uint64_t runtime, deadline, period;
		uint64_t more[4];
	} attr = { .size = sizeof(attr), .policy = 6 /* SCHED_DEADLINE */ };
	struct sched_param param = { .sched_priority = 1 };
	char clone_args[256] = { 0 };
	struct timespec now, end;

	syscall(SYS_sched_getattr, 0, &attr, 56, 0);
	attr.policy = 6;
	attr.size = sizeof(attr);
	attr.runtime = 200000;
	attr.deadline = attr.period = 2000000;
	syscall(SYS_sched_setattr, 0, &attr, 0);
	clock_gettime(CLOCK_MONOTONIC, &end);
	do	/* longer than its runtime */
		clock_gettime(CLOCK_MONOTONIC, &now);
	while ((now.tv_sec - end.tv_sec) * 1000000000 + now.tv_nsec - end.tv_nsec <
	       5000000);
	sched_setscheduler(0, SCHED_FIFO, &param);
	sched_setscheduler(0, SCHED_RR, &param);
	sched_rr_get_interval(0, &now);
	sched_setscheduler(0, SCHED_IDLE, &(struct sched_param){ 0 });
	sched_yield();
	sched_setscheduler(0, SCHED_OTHER, &(struct sched_param){ 0 });
	setpriority(PRIO_PROCESS, 0, 5);
	syscall(SYS_clone3, clone_args, sizeof(clone_args));
	syscall(SYS_openat2, -1, "/", clone_args, 64);
	syscall(SYS_mount_setattr, -1, "/", 0, clone_args, 64);
}

static void clocks(void)
{
	struct itimerspec every = { { 0, 1000000 }, { 0, 1000000 } };
	struct sigevent event = { .sigev_notify = SIGEV_NONE };
	struct itimerval passing = { { 0, 1000 }, { 0, 1000 } };
	struct timex adjust = { 0 };
	struct timespec now;
	timer_t timer;

	for (int clock = 0; clock < 12; clock++) {
		clock_gettime(clock, &now);
		clock_getres(clock, &now);
		if (timer_create(clock, &event, &timer))
			continue;
		timer_settime(timer, 0, &every, NULL);
		usleep(100);
		timer_gettime(timer, &every);
		timer_getoverrun(timer);
		timer_delete(timer);
	}
	signal(SIGVTALRM, SIG_IGN);
	signal(SIGPROF, SIG_IGN);
	setitimer(ITIMER_VIRTUAL, &passing, NULL);
	setitimer(ITIMER_PROF, &passing, NULL);
	getitimer(ITIMER_PROF, &passing);
	clock_nanosleep(CLOCK_BOOTTIME, 0, &soon, NULL);
	adjtimex(&adjust);
	adjust.modes = ADJ_FREQUENCY | ADJ_TICK;
	adjtimex(&adjust);
	clock_gettime(CLOCK_REALTIME, &now);
	clock_settime(CLOCK_REALTIME, &now);
	syscall(SYS_time, NULL);
	syscall(SYS_gettimeofday, &passing.it_value, NULL);
}

static void files(void)
{
	static char bytes[4096];
	struct iovec iov = { bytes, 100 };
	struct timespec times[2] = { { 0 } };
	int fd, dir, ends[2], other[2];
	char statx[256];

	mkdir("/x", 0700);
	fd = open("/x/a", O_RDWR | O_CREAT, 0600);
	dir = open("/", O_RDONLY | O_DIRECTORY);
	syscall(SYS_getdents, dir, bytes, sizeof(bytes));
	lseek(dir, 0, SEEK_SET);
	syscall(SYS_getdents64, dir, bytes, 64);
	syscall(SYS_getdents, dir, (void *)8, 64);
	syscall(SYS_statx, dir, "x/a", 0, 0x7ff, statx);
	preadv2(fd, &iov, 1, 0, RWF_NOWAIT);
	pwritev2(fd, &iov, 1, 0, RWF_APPEND);
	syscall(SYS_copy_file_range, fd, NULL, fd, &(long){ 4096 }, 50, 0);
	pipe2(ends, O_NONBLOCK | O_DIRECT);
	pipe2(other, O_NONBLOCK);
	write(ends[1], bytes, 100);
	tee(ends[0], other[1], 50, SPLICE_F_NONBLOCK);
	splice(ends[0], NULL, other[1], NULL, 50, SPLICE_F_NONBLOCK);
	fcntl(ends[1], F_SETPIPE_SZ, 1 << 16);
	ioctl(other[0], FIONREAD, bytes);
	ioctl(fd, FIOASYNC, &(int){ 0 });
	ioctl(fd, FIONBIO, &(int){ 1 });
	ioctl(fd, 2 /* FIGETBSZ */, bytes);
	fcntl(other[0], F_SETOWN, getpid());
	fcntl(other[0], F_SETFL, O_ASYNC | O_NONBLOCK);
	fcntl(other[0], F_SETSIG, SIGCHLD);
	write(other[1], bytes, 10);
	utimensat(dir, "x/a", times, 0);
	fsync(fd), fdatasync(fd), sync();
	syscall(SYS_sync_file_range, fd, 0L, 0L, 0);
	readahead(fd, 0, 4096);
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	mount("none", "/x", "ramfs", 0, NULL);
	mount("none", "/x", NULL, MS_REMOUNT | MS_RDONLY, NULL);
	umount2("/x", MNT_DETACH);
	chroot("/"), chdir("/");
	setsid(), setpgid(0, 0), setgroups(0, NULL);
	flock(fd, 2), fcntl(fd, F_GETLK, bytes);
	chown("/x/a", 1, 1), truncate("/x/a", 5);
	syscall(SYS_setxattr, "/x/a", "user.a", "1", 1, 0);
	unlink("/x/a"), rmdir("/x");
}

/* What is no program: of no format, a script, one that is cut. */
static void programs(void)
{
	static const char *const bytes[] = {
		"\x01\xff\xfe\x02nothing", "#!/init child\n", "#!/x-none\n",
		"\177ELF\2\1\1",
	};

	for (unsigned int i = 0; i < sizeof(bytes) / sizeof(*bytes); i++) {
		int fd = open("/x-program", O_WRONLY | O_CREAT | O_TRUNC, 0700);

		write(fd, bytes[i], strlen(bytes[i]));
		close(fd);
		if (!vfork()) {
			execl("/x-program", "/x-program", NULL);
			_exit(1);
		}
		wait(NULL);
	}
	unlink("/x-program");
}

static void terminals(void)
{
	struct winsize size = { 24, 80, 0, 0 };
	int master, slave, number = 0, off = 0;
	struct termios mode;
	char path[32], line[64];

	mkdir("/x-pts", 0700);
	mount("none", "/x-pts", "devpts", 0, "newinstance,ptmxmode=0666");
	master = open("/x-pts/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK);
	ioctl(master, TIOCSPTLCK, &off);
	ioctl(master, TIOCGPTN, &number);
	snprintf(path, sizeof(path), "/x-pts/%d", number);
	setsid();
	slave = open(path, O_RDWR | O_NONBLOCK);
	ioctl(slave, TIOCSCTTY, 0);
	tcgetattr(slave, &mode);
	write(master, "one\ntwo\bthree\n\004", 15);
	read(slave, line, sizeof(line));
	write(slave, "out\tput\n", 8);
	read(master, line, sizeof(line));
	mode.c_lflag &= ~(ICANON | ECHO);
	tcsetattr(slave, TCSADRAIN, &mode);
	write(master, "raw", 3);
	read(slave, line, 2);
	ioctl(slave, TIOCSWINSZ, &size);
	ioctl(slave, TIOCSTI, "x");
	ioctl(slave, TIOCOUTQ, &off);
	ioctl(slave, TCFLSH, 2);
	ioctl(slave, TIOCSETD, &(int){ 99 });
	signal(SIGINT, SIG_IGN), signal(SIGHUP, SIG_IGN);
	write(master, "\003\023\021", 3);
	vhangup();
	close(slave), close(master);
	umount2("/x-pts", MNT_DETACH);
	rmdir("/x-pts");
}

int calls(int *asked)
{
	static void (*const steps[])(void) = {
		futexes, waits_for, schedules, clocks, files, programs, terminals,
	};

	return each_apart(steps, sizeof(steps) / sizeof(*steps), asked);
}
