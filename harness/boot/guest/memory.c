// SPDX-License-Identifier: GPL-2.0-or-later
/* Memory: mappings that are moved, shared, locked, looked at and read badly. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "apart.h"

#define PAGE 4096UL
#define BIG (1UL << 20)
#define TABLE (2UL << 20)	/* what one table of pages maps */

static void *anonymous(size_t size, int flags)
{
	return mmap(NULL, size, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
}

/* Whole tables of pages move, where both places allow it. */
static void moves_tables(void)
{
	char *map = anonymous(8 * TABLE, 0);
	char *from = (char *)(((uintptr_t)map + TABLE) & -TABLE), *to = from + 4 * TABLE;

	for (int i = 0; i < 3; i++)
		from[i * TABLE] = 1;
	munmap(to, 3 * TABLE);
	mremap(from, 3 * TABLE, 3 * TABLE, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	mprotect(to, 2 * TABLE, PROT_READ);
	munmap(map, 8 * TABLE);
}

static void moves(void)
{
	char *from = anonymous(BIG, MAP_POPULATE), *to = anonymous(2 * BIG, 0);

	munmap(to, 2 * BIG);
	mremap(from, BIG, BIG, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	mremap(to, BIG, 2 * BIG, MREMAP_MAYMOVE);
	mprotect(to, BIG / 2, PROT_READ);
	mprotect(to, BIG, PROT_NONE);
	mprotect(to, BIG, PROT_READ | PROT_WRITE);
	mremap(to + 1, 0, 1, 0);
	brk(sbrk(BIG));
	munmap(to, BIG);
	moves_tables();
}

static void advice(void)
{
	static const int kinds[] = {
		MADV_WILLNEED, MADV_COLD, MADV_PAGEOUT, MADV_FREE, MADV_DONTNEED,
		MADV_DONTFORK, MADV_WIPEONFORK, MADV_POPULATE_WRITE, MADV_MERGEABLE,
		MADV_HUGEPAGE, MADV_RANDOM,
	};
	char *map = anonymous(BIG, MAP_POPULATE);

	for (unsigned int i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
		madvise(map, 16 * PAGE, kinds[i]);
}

static void locks(void)
{
	unsigned char resident[BIG / PAGE];
	char *map = anonymous(BIG, 0);

	mlock(map, 16 * PAGE);
	mlock2(map + BIG / 2, 16 * PAGE, MLOCK_ONFAULT);
	mincore(map, BIG, resident);
	munlock(map, 16 * PAGE);
	mlockall(MCL_CURRENT | MCL_FUTURE);
	anonymous(PAGE, 0);
	munlockall();
	msync(map, BIG, MS_SYNC);
}

static void shared(void)
{
	int fd = memfd_create("shared", MFD_ALLOW_SEALING);
	struct iovec here, there;
	char *map, *again;

	if (fd < 0)
		fd = open("/shared", O_RDWR | O_CREAT, 0600);
	ftruncate(fd, BIG);
	map = mmap(NULL, BIG, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	again = mmap(NULL, BIG, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	memset(map, 1, 64 * PAGE);
	memset(again, 2, 32 * PAGE);
	pwrite(fd, map, 3 * PAGE + 5, 7);
	remap_file_pages(map, 8 * PAGE, 0, 4, 0);
	msync(map, BIG, MS_ASYNC);
	if (!fork()) {
		memset(map + BIG / 2, 3, 8 * PAGE);
		memset(again, 4, PAGE);
		_exit(0);
	}
	wait(NULL);
	here = (struct iovec){ map, PAGE };
	there = (struct iovec){ again, PAGE };
	process_vm_readv(getpid(), &here, 1, &there, 1, 0);
	process_vm_writev(getpid(), &here, 1, &there, 1, 0);
	fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 16 * PAGE);
	fallocate(fd, 0, BIG, 16 * PAGE);
	ftruncate(fd, PAGE);
	fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE);
	unlink("/shared");
	map = mmap(NULL, BIG, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	memset(map, 5, 16 * PAGE);
}

/* Reads and writes that fault on the way, in the middle or at once. */
static void badly(void)
{
	char *map = anonymous(4 * PAGE, MAP_POPULATE), name[] = "/bad";
	int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600), ends[2];
	struct iovec iov[3] = { { map, 100 }, { map + PAGE - 8, 64 }, { NULL, 64 } };
	void *volatile nowhere = (void *)8;

	munmap(map + PAGE, PAGE);
	pipe(ends);
	writev(fd, iov, 3);
	write(fd, map + PAGE - 10, 20);
	write(fd, nowhere, 10);
	lseek(fd, 0, SEEK_SET);
	readv(fd, iov, 3);
	read(fd, map + PAGE - 10, 20);
	read(fd, nowhere, 10);
	write(ends[1], map, 20);
	write(ends[1], map + PAGE - 10, 20);
	read(ends[0], nowhere, 5);
	vmsplice(ends[1], iov, 2, SPLICE_F_NONBLOCK);
	splice(ends[0], NULL, fd, NULL, 64, SPLICE_F_NONBLOCK);
	syscall(SYS_clock_gettime, 0, nowhere);
	syscall(SYS_nanosleep, nowhere, NULL);
	syscall(SYS_rt_sigaction, SIGUSR1, nowhere, nowhere, 8);
	syscall(SYS_getcwd, nowhere, 100);
	syscall(SYS_open, nowhere, 0);
	syscall(SYS_execve, "/init", nowhere, nowhere);
	syscall(SYS_pipe, nowhere);
	syscall(SYS_wait4, -1, nowhere, 0, nowhere);
	syscall(SYS_poll, nowhere, 3, 0);
	syscall(SYS_select, 3, nowhere, nowhere, nowhere, nowhere);
	unlink(name);
}

static void zeros(void)
{
	static char bytes[3 * PAGE];
	struct iovec iov[2] = { { bytes, 10 }, { bytes + PAGE, PAGE + 1 } };
	static const char *const names[] = { "zero", "full", "null", "random", "mem",
					     "port", "urandom" };
	char path[32];
	int fd;

	for (unsigned int i = 0; i < sizeof(names) / sizeof(*names); i++) {
		static const int minors[] = { 5, 7, 3, 8, 1, 4, 9 };

		snprintf(path, sizeof(path), "/dev/orc-%s", names[i]);
		syscall(SYS_mknod, path, 0020600 /* S_IFCHR */, 1 << 8 | minors[i]);
		fd = open(path, O_RDWR);
		unlink(path);
		if (minors[i] == 4)
			lseek(fd, 0x80, SEEK_SET);
		readv(fd, iov, 2);
		read(fd, bytes, minors[i] == 4 ? 1 : sizeof(bytes));
		if (minors[i] != 1 && minors[i] != 4)
			write(fd, bytes, 100);
		mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
		mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
		close(fd);
	}
}

static void place(void)
{
	for (int what = PR_SET_MM_START_CODE; what <= PR_SET_MM_MAP_SIZE; what++)
		prctl(PR_SET_MM, what, 0x1000, 0, 0);
}

int memory(int *asked)
{
	static void (*const steps[])(void) = {
		moves, advice, locks, shared, badly, zeros, place,
	};

	return each_apart(steps, sizeof(steps) / sizeof(*steps), asked);
}
