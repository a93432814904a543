// SPDX-License-Identifier: GPL-2.0-or-later
/* Tree: everything that /proc and /sys tell, and what can be asked for there. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "apart.h"

#define DEEPEST 12
#define READ_BYTES (16 << 10)

/* Blocks, is the evidence's, or is huge. */
static const char *const left_alone[] = { "kmsg", "kcore", "kallsyms", "thread-self" };

static void put(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_NONBLOCK);

	if (fd >= 0) {
		write(fd, value, strlen(value));
		close(fd);
	}
}

static void look(const char *path)
{
	static char bytes[READ_BYTES];
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY);

	if (fd < 0)
		return;
	read(fd, bytes, sizeof(bytes));
	lseek(fd, 0, SEEK_SET);
	close(fd);
}

static int is_left_alone(const char *name)
{
	for (unsigned int i = 0; i < sizeof(left_alone) / sizeof(*left_alone); i++)
		if (!strcmp(name, left_alone[i]))
			return 1;
	return name[0] == '.';
}

static void walk(const char *path, int depth)
{
	struct dirent *entry;
	char below[512], link[256];
	DIR *dir = opendir(path);

	while (dir && (entry = readdir(dir))) {
		int process = entry->d_name[0] >= '0' && entry->d_name[0] <= '9';

		if (is_left_alone(entry->d_name) ||
		    (!strcmp(path, "/proc") && process && strcmp(entry->d_name, "1")))
			continue;
		snprintf(below, sizeof(below), "%s/%s", path, entry->d_name);
		if (entry->d_type == DT_DIR && depth < DEEPEST)
			walk(below, depth + 1);
		else if (entry->d_type == DT_REG)
			look(below);
		else if (entry->d_type == DT_LNK)
			readlink(below, link, sizeof(link));
	}
	if (dir)
		closedir(dir);
}

static void tells(void)
{
	walk("/proc", 0);
	walk("/proc/self", 1);
	for (const char *kind = "12345"; *kind; kind++)
		put("/proc/self/clear_refs", (char[]){ *kind, 0 });
	put("/proc/self/oom_score_adj", "1");
	put("/proc/self/comm", "walker");
	put("/proc/sys/vm/drop_caches", "3");
	put("/proc/sys/vm/compact_memory", "1");
	put("/proc/sys/kernel/printk", "7 4 1 7");
	put("/dev/kmsg", "<7>workload\n");
}

static void system_tells(void)
{
	walk("/sys", 0);
}

/* Other clocks than the one that was chosen. */
static void ticks(void)
{
	static const char path[] =
		"/sys/devices/system/clocksource/clocksource0/current_clocksource";
	static const char *const names[] = { "hpet", "acpi_pm", "jiffies", "refined-jiffies" };
	char chosen[64] = { 0 };
	int fd = open(path, O_RDONLY);

	if (fd < 0 || read(fd, chosen, sizeof(chosen) - 1) <= 0)
		return;
	close(fd);
	for (unsigned int i = 0; i < sizeof(names) / sizeof(*names); i++) {
		put(path, names[i]);
		usleep(2000);
	}
	put(path, chosen);
}

/* A CPU that goes and comes back. */
static void cpus(void)
{
	put("/sys/devices/system/cpu/cpu1/online", "0");
	usleep(2000);
	put("/sys/devices/system/cpu/cpu1/online", "1");
}

int tree(int *asked)
{
	int done = 0;

	mkdir("/sys", 0755);
	mount("sysfs", "/sys", "sysfs", 0, NULL);
	TRY(apart(tells));
	TRY(apart(system_tells));
	TRY(apart(ticks));
	if (workload_cpus() > 1)
		TRY(apart(cpus));
	umount2("/sys", MNT_DETACH);
	return done;
}
