/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The evidence channel: how a guest tells the host what it really did.
 *
 * Records go byte by byte to an I/O port (QEMU's isa-debugcon, or the data
 * register of an ISA UART), so that they need no driver and never mix with the
 * console. A nested guest, for which each byte on a port is an exit to a host that
 * is itself emulated, may be given memory instead (orc.memory=ADDRESS, which the
 * kernel must be kept off): a count of bytes, then the bytes. Each line starts with the boot's nonce, which came on the kernel
 * command line: nothing but this boot can have written it.
 *
 *	<nonce> hello
 *	<nonce> fact <name> <value>
 *	<nonce> part <name> <done> <asked>
 *	<nonce> lack <name> <reason>
 *	<nonce> mark <name>
 *	<nonce> text <name> <size in bytes>\n<that many raw bytes>\n
 *	<nonce> done <number of records before this one>
 */
#ifndef ORC_EVIDENCE_H
#define ORC_EVIDENCE_H

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static char ev_cmdline[4096];
static char ev_nonce[64] = "-";
static unsigned short ev_port = 0xe9;
static int ev_devport = -1;
static unsigned long ev_records;

/* How a guest's memory is shared with its host; also what host.c reads. */
#define EV_MEMORY_BYTES (1UL << 20)
struct ev_memory {
	volatile unsigned long size;
	char data[EV_MEMORY_BYTES - sizeof(unsigned long)];
};
static struct ev_memory *ev_memory;

/* Copy the value of "orc.NAME=" on the kernel command line; 0 if absent. */
static int ev_option(const char *name, char *value, size_t size)
{
	char key[64];
	const char *at = ev_cmdline;
	size_t n = snprintf(key, sizeof(key), "orc.%s", name);

	while ((at = strstr(at, key))) {
		const char *end = at + n;

		if ((at == ev_cmdline || at[-1] == ' ') &&
		    (!*end || strchr("= \n", *end))) {
			size_t length;

			end += *end == '=';
			length = strcspn(end, " \n");
			if (length >= size)
				length = size - 1;
			memcpy(value, end, length);
			value[length] = 0;
			return 1;
		}
		at = end;
	}
	return 0;
}

static inline long ev_number(const char *name, long fallback)
{
	char value[32];

	return ev_option(name, value, sizeof(value)) ? strtol(value, NULL, 0)
						     : fallback;
}

static void ev_raw_to(unsigned short port, const void *data, size_t size)
{
	if (ev_devport >= 0) {
		/* /dev/port steps to the next port with each byte. */
		for (size_t i = 0; i < size; i++)
			if (pwrite(ev_devport, (const char *)data + i, 1, port) != 1)
				return;
		return;
	}
	outsb(port, data, size);
}

static void ev_raw(const void *data, size_t size)
{
	if (!ev_memory) {
		ev_raw_to(ev_port, data, size);
		return;
	}
	if (size > sizeof(ev_memory->data) - ev_memory->size)
		return; /* the closing count will not match */
	memcpy(ev_memory->data + ev_memory->size, data, size);
	__atomic_thread_fence(__ATOMIC_RELEASE);
	ev_memory->size += size;
}

static void ev_map_memory(unsigned long address)
{
	int fd;

	mkdir("/dev", 0755);
	mknod("/dev/mem", S_IFCHR | 0600, 1 << 8 | 1);
	fd = open("/dev/mem", O_RDWR | O_CLOEXEC);
	ev_memory = mmap(NULL, EV_MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
			 address);
	if (ev_memory == MAP_FAILED)
		ev_memory = NULL;
	if (fd >= 0)
		close(fd);
}

__attribute__((format(printf, 1, 2))) static void ev_line(const char *format, ...)
{
	char line[1024];
	va_list ap;
	int n = snprintf(line, sizeof(line), "%s ", ev_nonce);

	va_start(ap, format);
	n += vsnprintf(line + n, sizeof(line) - n - 1, format, ap);
	va_end(ap);
	if (n > (int)sizeof(line) - 2)
		n = sizeof(line) - 2;
	for (int i = 0; i < n; i++)
		if (line[i] == '\n')
			line[i] = ' ';
	line[n++] = '\n';
	ev_raw(line, n);
	ev_records++;
}

static void ev_text(const char *name, const char *data, size_t size)
{
	if (!size)
		return;
	ev_line("text %s %zu", name, size);
	ev_raw(data, size);
	ev_raw("\n", 1);
}

/* Read a file of /proc whole; returns its size, or -1. */
static ssize_t ev_slurp(const char *path, char *buffer, size_t size)
{
	size_t total = 0;
	ssize_t n = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -1;
	while (total < size - 1 && (n = read(fd, buffer + total, size - 1 - total)) > 0)
		total += n;
	close(fd);
	if (n < 0 && !total)
		return -1;
	buffer[total] = 0;
	return total;
}

static void ev_file(const char *name, const char *path)
{
	static char buffer[256 << 10];
	ssize_t n = ev_slurp(path, buffer, sizeof(buffer));

	if (n < 0)
		ev_line("lack %s cannot read %s", name, path);
	else
		ev_text(name, buffer, n);
}

static void ev_open(void)
{
	char value[32];

	mkdir("/proc", 0755);
	mount("proc", "/proc", "proc", 0, NULL);
	ev_slurp("/proc/cmdline", ev_cmdline, sizeof(ev_cmdline));
	ev_option("nonce", ev_nonce, sizeof(ev_nonce));
	if (ev_option("port", value, sizeof(value)))
		ev_port = strtol(value, NULL, 0);
	if (ev_option("memory", value, sizeof(value)))
		ev_map_memory(strtoul(value, NULL, 0));
	/* 0xe9.. and 0x2f8: the ports that our machines put an ear to. */
	if (ioperm(ev_port, 1, 1)) {
		mkdir("/dev", 0755);
		mknod("/dev/port", S_IFCHR | 0600, 1 << 8 | 4);
		ev_devport = open("/dev/port", O_RDWR | O_CLOEXEC);
	}
	ev_line("hello");
}

#endif
