// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Init of the nested KVM host: loads kvm, runs QEMU on the kernel under test, and
 * passes that guest's console and evidence on to two ports of its own machine.
 *
 *	orc.nonce=HEX	starts every record (this machine's own, not the guest's)
 *	orc.guest=N	where in the guest's memory its evidence is
 *	orc.debugged=1	pass on what its gdbstub says
 *
 * /qemu.argv holds QEMU's arguments, one a line. The guest's files grow in /guest.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

#include "evidence.h"

#define MAX_ARGS 128
#define EVIDENCE_PORT 0xea
#define CONSOLE_PORT 0xeb
#define STUB "/guest/gdb"
#define PORT_NAPS 500

/* From linux/kvm.h, whose package an image need not have. */
#define KVM_GET_API_VERSION 0xae00

static char buffer[64 << 10];

static void load_modules(void)
{
	char *names[16];
	int count = 0, progress, fd;
	struct dirent *entry;
	DIR *dir = opendir("/modules");

	while (dir && (entry = readdir(dir)) && count < 16)
		if (entry->d_name[0] != '.')
			names[count++] = strdup(entry->d_name);
	do {
		progress = 0;
		for (int i = 0; i < count; i++) {
			char path[300];

			if (!names[i])
				continue;
			snprintf(path, sizeof(path), "/modules/%s", names[i]);
			fd = open(path, O_RDONLY | O_CLOEXEC);
			if (!syscall(SYS_finit_module, fd, "", 0)) {
				progress = 1;
				names[i] = NULL;
			} else if (errno != ENOENT) {
				ev_line("fact module.%s %s", names[i], strerror(errno));
				names[i] = NULL;
			}
			close(fd);
		}
	} while (progress);
}

static pid_t start_qemu(void)
{
	static char *argv[MAX_ARGS];
	int argc = 0;
	pid_t pid;

	ev_slurp("/qemu.argv", buffer, sizeof(buffer));
	for (char *word = strtok(buffer, "\n"); word && argc < MAX_ARGS - 1;
	     word = strtok(NULL, "\n"))
		argv[argc++] = word;
	pid = fork();
	if (!pid) {
		int log = open("/guest/qemu", O_WRONLY | O_CREAT | O_TRUNC, 0600);

		dup2(log, 1);
		dup2(log, 2);
		execv(argv[0], argv);
		perror(argv[0]);
		_exit(127);
	}
	return pid;
}

/*
 * A port to the outside. The console device that virtio has, too, would not do: the
 * host drops what it cannot pass on at once, and takes 16 bytes at a time.
 */
static int open_port(void)
{
	struct timespec nap = { 0, 20000000 };
	int fd;

	mkdir("/devices", 0755);
	mount("devtmpfs", "/devices", "devtmpfs", 0, NULL);
	for (int i = 0; i < PORT_NAPS; i++) {
		fd = open("/devices/vport0p1", O_RDWR | O_CLOEXEC);
		if (fd >= 0)
			break;
		nanosleep(&nap, NULL);
	}
	return fd;
}

static int open_stub(void)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX, .sun_path = STUB };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd >= 0 && connect(fd, (struct sockaddr *)&name, sizeof(name))) {
		close(fd);
		fd = -1;
	}
	return fd;
}

static int pass_on(int from, int to)
{
	ssize_t n = read(from, buffer, sizeof(buffer));

	for (ssize_t done = 0, more; done < n; done += more)
		if ((more = write(to, buffer + done, n - done)) <= 0)
			return 0;
	return n > 0;
}

/* Join the inner QEMU's gdbstub to the port, whenever somebody is at its other end. */
static pid_t start_relay(int port)
{
	struct timespec nap = { 0, 5000000 };
	pid_t pid = fork();
	struct pollfd both[2];

	if (pid)
		return pid;
	signal(SIGPIPE, SIG_IGN);
	both[0] = (struct pollfd){ .fd = port, .events = POLLIN };
	both[1] = (struct pollfd){ .fd = -1, .events = POLLIN };
	while (poll(both, 2, -1) > 0) {
		if (both[1].fd < 0) {
			if (!(both[0].revents & (POLLHUP | POLLERR)))
				both[1].fd = open_stub();
			if (both[1].fd < 0)
				nanosleep(&nap, NULL);
			continue;
		}
		/* Who goes says something first: what is left is passed on. */
		if (both[0].revents && !pass_on(both[0].fd, both[1].fd)) {
			close(both[1].fd);
			both[1].fd = -1;
		} else if (both[1].revents && !pass_on(both[1].fd, both[0].fd)) {
			break; /* QEMU has ended */
		}
	}
	_exit(0);
}

/* Pass on what has been added to a file of the guest's. */
static void forward(int *fd, const char *path, unsigned short port)
{
	ssize_t n;

	if (*fd < 0)
		*fd = open(path, O_RDONLY | O_CLOEXEC);
	while (*fd >= 0 && (n = read(*fd, buffer, sizeof(buffer))) > 0)
		ev_raw_to(port, buffer, n);
}

/* Pass on what the guest has added to the memory that it shares with us. */
static void forward_memory(void)
{
	static const struct ev_memory *shared;
	static unsigned long done;
	unsigned long size;

	if (!shared) {
		long offset = ev_number("guest", 0);
		int fd = open("/guest/memory", O_RDONLY | O_CLOEXEC);
		struct stat st;

		if (fd < 0)
			return;
		if (fstat(fd, &st) || st.st_size < offset + (long)EV_MEMORY_BYTES) {
			close(fd); /* QEMU has not given it its size yet */
			return;
		}
		shared = mmap(NULL, EV_MEMORY_BYTES, PROT_READ, MAP_SHARED, fd, offset);
		close(fd);
		if (shared == MAP_FAILED)
			shared = NULL;
		if (!shared)
			return;
	}
	size = shared->size;
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	if (size > done && size <= sizeof(shared->data)) {
		ev_raw_to(EVIDENCE_PORT, shared->data + done, size - done);
		done = size;
	}
}

static void forward_all(void)
{
	static int console = -1, evidence = -1;

	forward(&console, "/guest/console", CONSOLE_PORT);
	forward(&evidence, "/guest/evidence", EVIDENCE_PORT);
	forward_memory();
}

int main(void)
{
	struct timespec nap = { 0, 20000000 };
	int status = 0, kvm;
	pid_t pid;

	ev_open();
	ioperm(EVIDENCE_PORT, 2, 1);
	mkdir("/guest", 0755);
	mkdir("/tmp", 0777);
	mkdir("/dev", 0755);
	mknod("/dev/null", S_IFCHR | 0666, makedev(1, 3));
	mknod("/dev/urandom", S_IFCHR | 0666, makedev(1, 9));
	load_modules();
	mknod("/dev/kvm", S_IFCHR | 0600, makedev(10, 232));
	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	ev_line("part kvm %d 1", kvm >= 0 && ioctl(kvm, KVM_GET_API_VERSION, 0) == 12);
	close(kvm);
	if (ev_number("debugged", 0)) {
		int port = open_port();

		if (port < 0) /* nobody will ever come to the stub: do not let them wait */
			ev_line("lack stub the port to the outside: %s", strerror(errno));
		else
			start_relay(port);
		close(port);
	}
	ev_line("mark running");
	pid = start_qemu();
	for (int i = 0; waitpid(pid, &status, WNOHANG) != pid; i++) {
		forward_all();
		nanosleep(&nap, NULL);
		/* If the guest hangs, this tells that its host does not. */
		if (!(i % 25))
			ev_line("mark alive");
	}
	forward_all();
	ev_file("qemu", "/guest/qemu");
	if (WIFEXITED(status))
		ev_line("fact qemu.exit %d", WEXITSTATUS(status));
	else
		ev_line("fact qemu.signal %d", WTERMSIG(status));
	ev_line("done %lu", ev_records);
	reboot(RB_POWER_OFF);
	return 1;
}
