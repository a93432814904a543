// SPDX-License-Identifier: GPL-2.0-or-later
/* Files that stand for events: the part of the workload that waits on them. */
#define _GNU_SOURCE
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "workload.h"

static int polls(int *asked)
{
	struct epoll_event event = { .events = EPOLLIN };
	int done = 0, poller, counter;
	uint64_t value = 3;

	TRY((poller = epoll_create1(EPOLL_CLOEXEC)) >= 0);
	TRY((counter = eventfd(0, EFD_CLOEXEC)) >= 0);
	if (poller < 0 || counter < 0)
		return done;
	TRY(!epoll_ctl(poller, EPOLL_CTL_ADD, counter, &event));
	TRY(epoll_wait(poller, &event, 1, 0) == 0);
	TRY(write(counter, &value, sizeof(value)) == sizeof(value));
	TRY(epoll_wait(poller, &event, 1, 5000) == 1);
	TRY(read(counter, &value, sizeof(value)) == sizeof(value) && value == 3);
	close(counter);
	close(poller);
	return done;
}

static int expiry(int *asked)
{
	struct itimerspec soon = { .it_value = { 0, 1000000 } };
	int done = 0, timer;
	uint64_t value;

	TRY((timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC)) >= 0);
	if (timer < 0)
		return done;
	TRY(!timerfd_settime(timer, 0, &soon, NULL));
	TRY(read(timer, &value, sizeof(value)) == sizeof(value) && value >= 1);
	close(timer);
	return done;
}

static int arrivals(int *asked)
{
	struct signalfd_siginfo info;
	int done = 0, catcher;
	sigset_t set;
	fd_set reads;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	TRY((catcher = signalfd(-1, &set, SFD_CLOEXEC)) >= 0);
	if (catcher < 0)
		return done;
	sigprocmask(SIG_BLOCK, &set, NULL);
	raise(SIGUSR1);
	FD_ZERO(&reads);
	FD_SET(catcher, &reads);
	TRY(select(catcher + 1, &reads, NULL, NULL, NULL) == 1);
	TRY(read(catcher, &info, sizeof(info)) == sizeof(info) &&
	    info.ssi_signo == SIGUSR1);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	close(catcher);
	return done;
}

int events(int *asked)
{
	int done = 0, memory;
	char bytes[64];

	done += polls(asked);
	done += expiry(asked);
	done += arrivals(asked);
	TRY(getrandom(bytes, sizeof(bytes), GRND_NONBLOCK) > 0 || errno == EAGAIN);
	TRY((memory = memfd_create("events", MFD_CLOEXEC)) >= 0);
	if (memory >= 0) {
		TRY(!ftruncate(memory, 8192));
		TRY(sendfile(memory, memory, &(off_t){ 4096 }, 64) == 64);
		close(memory);
	}
	return done;
}
