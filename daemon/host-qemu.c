/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the installed QEMU programs and passt say of themselves, asked in parallel and kept. */
#include "config.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/cleanup.h"
#include "common/jsonx.h"
#include "common/timeutil.h"
#include "daemon/fiber.h"
#include "daemon/host.h"

#define QUERY_TIME_US 10000000u
#define QUERY_MAX     (256u << 10)

/* One question to one program. */
struct question {
	const char *path, *option, *argument;
	bool any_status; /* the exit status says nothing */
	struct inquiry *inquiry;
	char *answer;
};

struct inquiry {
	struct question questions[7];
	size_t n, open;
	struct waitq done;
};

static json_int_t file_stamp(const char *path)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return -1;
	return (json_int_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
}

const json_t *host_qemu(const struct host_facts *f, const char *path)
{
	return json_object_get(f->qemu_cache, path);
}

static bool is_known(const struct host_facts *f, const char *path)
{
	return jsonx_int(host_qemu(f, path), "stamp", -2) == file_stamp(path);
}

static void ask(void *arg)
{
	struct question *q = arg;
	char *argv[] = { (char *)(uintptr_t)q->path, (char *)(uintptr_t)q->option,
		         (char *)(uintptr_t)q->argument, NULL };
	struct spawn_spec spec = {
		.path = q->path, .argv = argv, .death_signal = SIGKILL, .null_stdio = true
	};
	struct proc_status status = { 0 };

	fiber_set_deadline(now_monotonic_us() + QUERY_TIME_US);
	if (fiber_run_program(&spec, QUERY_MAX, &q->answer, &status, NULL) < 0 || !status.exited ||
	    (status.code != 0 && !q->any_status)) {
		free(q->answer);
		q->answer = NULL;
	}
	q->inquiry->open--;
	waitq_wake_all(&q->inquiry->done);
}

/* "QEMU emulator version 7.2.22 (Debian ...)" to "7.2.22". */
static json_t *parse_version(const char *answer)
{
	const char *p = strstr(answer, "version ");

	p = p ? p + strlen("version ") : "";
	return json_stringn(p, strspn(p, "0123456789."));
}

/* The first word of each line from the second on, "x86" before a CPU name skipped; a list ends at
 * an empty line. */
static json_t *parse_names(const char *answer)
{
	json_t *names = json_array();

	for (const char *p = strchr(answer, '\n'); p && p[1] && p[1] != '\n'; p = strchr(p, '\n')) {
		p += 1 + strspn(p + 1, " ");
		if (strncmp(p, "x86 ", 4) == 0)
			p += 4;
		json_array_append_new(names, json_stringn(p, strcspn(p, " \n")));
	}
	return names;
}

static void keep(struct host_facts *f, const char *path, json_t *entry)
{
	if (!f->qemu_cache)
		f->qemu_cache = json_object();
	(void)jsonx_set(f->qemu_cache, path, entry);
}

static void take_answers(struct host_facts *f, const struct question *q)
{
	/* Three in a row belong to one program. */
	if (q[0].answer && q[1].answer && q[2].answer)
		keep(f, q->path,
		     json_pack("{s:I, s:o, s:o, s:o}", "stamp", file_stamp(q->path), "version",
		               parse_version(q[0].answer), "machines", parse_names(q[1].answer),
		               "cpus", parse_names(q[2].answer)));
}

/*
 * Until the summer of 2024 (Debian 12 has one of those) passt left a guest's SYN,ACK unanswered
 * until the client sent something: a forwarded connection whose server speaks first hung. Versions
 * are told in no order ("unknown version"), so an option that came soon after the cure decides.
 */
static void take_passt(struct host_facts *f, const struct question *q)
{
	if (q->answer)
		keep(f, q->path,
		     json_pack("{s:I, s:b}", "stamp", file_stamp(q->path), "forwards",
		               strstr(q->answer, "--map-host-loopback") != NULL));
}

bool host_passt_forwards(const struct host_facts *f)
{
	return f->passt[0] && jsonx_bool(host_qemu(f, f->passt), "forwards", false);
}

static int run_inquiry(struct inquiry *inquiry)
{
	int r = 0;

	waitq_init(&inquiry->done);
	for (size_t i = 0; i < inquiry->n; i++) {
		inquiry->open++;
		if (fiber_start("qemu-query", ask, &inquiry->questions[i]) < 0)
			inquiry->open--;
	}
	/* The questions point into our stack and end by themselves: nothing may cut this short. */
	fiber_shield(true);
	while (inquiry->open && r == 0)
		r = waitq_wait(&inquiry->done, -1);
	fiber_shield(false);
	return r;
}

int host_query_qemu(struct host_facts *f)
{
	const char *const paths[] = { f->qemu_x86_64, f->qemu_aarch64 };
	static const char *const options[][2] = { { "-version", NULL },
		                                  { "-machine", "help" },
		                                  { "-cpu", "help" } };
	struct inquiry inquiry = { .n = 0 };
	size_t n;
	int r;

	for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
		if (!paths[i][0] || is_known(f, paths[i]))
			continue;
		for (size_t k = 0; k < ARRAY_SIZE(options); k++)
			inquiry.questions[inquiry.n++] = (struct question){
				.path = paths[i],
				.option = options[k][0],
				.argument = options[k][1],
				.inquiry = &inquiry,
			};
	}
	n = inquiry.n;
	if (f->passt[0] && !is_known(f, f->passt))
		inquiry.questions[inquiry.n++] = (struct question){ .path = f->passt,
			                                            .option = "--help",
			                                            .any_status = true,
			                                            .inquiry = &inquiry };
	r = run_inquiry(&inquiry);
	for (size_t i = 0; i < n; i += ARRAY_SIZE(options))
		take_answers(f, &inquiry.questions[i]);
	if (n < inquiry.n)
		take_passt(f, &inquiry.questions[n]);
	for (size_t i = 0; i < inquiry.n; i++)
		free(inquiry.questions[i].answer);
	return r < 0 ? r : fiber_is_cancelled() ? -ECANCELED : 0;
}
