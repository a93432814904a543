/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Apart: what a process of its own tries, which may be killed for it. What comes of
 * the single steps is not asked: kernels differ. Only that it comes to an end is.
 */
#ifndef ORC_APART_H
#define ORC_APART_H

#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "workload.h"

#define APART_S 20

static inline int apart(void (*steps)(void))
{
	int status;
	pid_t pid = fork();

	if (pid < 0)
		return 0;
	if (!pid) {
		signal(SIGALRM, SIG_DFL);
		alarm(APART_S);
		steps();
		_exit(0);
	}
	return waitpid(pid, &status, 0) == pid &&
	       !(WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM);
}

/* Ask for each of count, as a part of the workload does. */
static inline int each_apart(void (*const *steps)(void), size_t count, int *asked)
{
	int done = 0;

	for (size_t i = 0; i < count; i++)
		TRY(apart(steps[i]));
	return done;
}

/* Run one step that may be killed. */
static inline void risk(void (*step)(void))
{
	pid_t pid = fork();

	if (!pid) {
		step();
		_exit(0);
	}
	if (pid > 0)
		waitpid(pid, NULL, 0);
}

#endif
