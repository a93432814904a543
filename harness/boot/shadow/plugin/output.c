// SPDX-License-Identifier: GPL-2.0-or-later
#include "output.h"

#include <glib.h>
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "check.h"
#include "module.h"
#include "places.h"

static FILE *output(const char *prefix, const char *suffix)
{
	char *path = g_strconcat(prefix, suffix, NULL);
	FILE *file = fopen(path, "wb");

	if (!file)
		perror(path);
	g_free(path);
	return file;
}

static void write_place(const struct insn *insn, FILE *file)
{
	if (!(insn->verified + insn->other))
		return;
	fwrite((uint64_t[]){ insn->pc, insn->verified, insn->other, insn->row },
	       sizeof(uint64_t), 4, file);
	fwrite(insn->code, sizeof(insn->code), 1, file);
}

static void write_places(FILE *file)
{
	for (size_t i = 0; i < places.size; i++) {
		const struct insn *insn = places.slots[i].value;

		for (; insn; insn = insn->before)
			write_place(insn, file);
	}
}

static void write_report(FILE *file)
{
	fprintf(file, "cpu_ms %ld\n", clock() / (CLOCKS_PER_SEC / 1000));
	fprintf(file, "entries %" PRIu64 "\n", counts.entries);
	fprintf(file, "frames_built %" PRIu64 "\n", counts.frames_built);
	fprintf(file, "frames_moved %" PRIu64 "\n", counts.frames_moved);
	fprintf(file, "adopted %" PRIu64 "\n", counts.adopted);
	fprintf(file, "proved %" PRIu64 "\n", counts.proved);
	fprintf(file, "abandoned %" PRIu64 "\n", counts.abandoned);
	fprintf(file, "bp_verified %" PRIu64 "\n", counts.bp_verified);
	fprintf(file, "undecided %" PRIu64 "\n", counts.undecided);
	fprintf(file, "misread %" PRIu64 "\n", counts.misread);
	fprintf(file, "modules_unread %" PRIu64 "\n", counts.modules_unread);
	fprintf(file, "control_seen %d\n", control.seen);
	fprintf(file, "control_clean %d\n", control_is_clean());
	for (size_t i = 0; i < mismatch_count; i++) {
		const struct mismatch *one = &mismatches[i];

		if (one->count)
			fprintf(file, "mismatch %s %#" PRIx64 " %" PRId32 " %" PRIu64
				" %#" PRIx64 " %#" PRIx64 " %#" PRIx64 " %#" PRIx64
				" %#" PRIx64 " %#" PRIx64 "\n",
				one->claim == CLAIM_BP ? "bp" : "cfa",
				one->insn->pc, one->insn->row, one->count,
				one->claimed, one->truth, one->rsp, one->from,
				one->returned, one->caller);
	}
	fprintf(file, "end\n");
}

void output_write(const char *prefix)
{
	FILE *instructions = output(prefix, ".places"), *report = output(prefix, ".report");
	FILE *modules = output(prefix, ".modules");

	if (instructions) {
		write_places(instructions);
		fclose(instructions);
	}
	if (modules) {
		module_write(modules);
		fclose(modules);
	}
	if (report) {
		write_report(report);
		fclose(report);
	}
}
