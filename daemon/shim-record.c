/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

/* What shims leave in files: exit records, identities, console logs. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/conlog.h"
#include "common/fsutil.h"
#include "common/jsonx.h"
#include "common/procutil.h"
#include "common/strbuf.h"
#include "daemon/shim-private.h"

#define MAX_RECORD 65536
#define MAX_READ   (1u << 30) /* of log: the guest may write as fast as we read */

int shim_parse_exit(const json_t *v, struct shim_exit *ret)
{
	if (!json_is_object(v) || !json_is_boolean(json_object_get(v, "exited")))
		return -EBADMSG;
	memset(ret, 0, sizeof(*ret));
	ret->known = true;
	ret->exited = jsonx_bool(v, "exited", false);
	ret->code = (int)jsonx_int(v, "code", 0);
	ret->signal = (int)jsonx_int(v, "signal", 0);
	ret->core = jsonx_bool(v, "core", false);
	ret->time_us = (uint64_t)jsonx_int(v, "time_us", 0);
	snprintf(ret->process, sizeof(ret->process), "%s", jsonx_str(v, "process", "engine"));
	snprintf(ret->cause, sizeof(ret->cause), "%s", jsonx_str(v, "cause", ""));
	snprintf(ret->stderr_tail, sizeof(ret->stderr_tail), "%s", jsonx_str(v, "stderr", ""));
	return 0;
}

/* The last line of text that says something; its length in *ret_len. */
static const char *last_line(const char *text, size_t *ret_len)
{
	size_t end = strlen(text), start;

	while (end && (text[end - 1] == '\n' || text[end - 1] == ' '))
		end--;
	for (start = end; start && text[start - 1] != '\n'; start--)
		;
	*ret_len = end - start;
	return text + start;
}

const char *shim_exit_text(const struct shim_exit *exit, char *buf, size_t len)
{
	size_t line_len;
	const char *line = last_line(exit->stderr_tail, &line_len);
	char how[160];

	if (!exit->known)
		snprintf(how, sizeof(how), "%s",
		         exit->alive ? "runs on, but its shim is gone"
		                     : "gone together with its shim; how it ended is not known");
	else if (exit->exited)
		snprintf(how, sizeof(how), "exited with status %d", exit->code);
	else
		snprintf(how, sizeof(how), "killed by signal %d (%s)%s%s%s", exit->signal,
		         strsignal(exit->signal), exit->core ? ", core dumped" : "",
		         exit->cause[0] ? ", because " : "", exit->cause);
	snprintf(buf, len, "%s%s%.*s", how, line_len ? ": " : "", (int)MIN_OF(line_len, 4096),
	         line);
	return buf;
}

static json_t *read_record(const char *runtime_dir, const char *name, int *ret)
{
	cleanup_close int dir = fs_open_dir(AT_FDCWD, runtime_dir);
	cleanup_free char *text = NULL;
	json_t *v;
	size_t len;

	*ret = dir < 0 ? dir : fs_read_file(dir, name, MAX_RECORD, &text, &len);
	if (*ret < 0)
		return NULL;
	v = jsonx_parse(text, len, 8, NULL);
	*ret = v ? 0 : -EBADMSG;
	return v;
}

int shim_last_exit(const char *runtime_dir, struct shim_exit *ret)
{
	int r;
	cleanup_json json_t *v = read_record(runtime_dir, "exit.json", &r);

	return v ? shim_parse_exit(v, ret) : r;
}

static int open_recorded(const json_t *v, const char *pid, const char *start_time)
{
	return proc_open_identity((pid_t)jsonx_int(v, pid, 0),
	                          (uint64_t)jsonx_int(v, start_time, 0));
}

bool shim_engine_lives(const char *runtime_dir)
{
	int r;
	cleanup_json json_t *v = read_record(runtime_dir, "shim.json", &r);
	cleanup_close int fd = -EBADF;

	if (!v || strcmp(jsonx_str(v, "boot_id", ""), proc_boot_id()) != 0)
		return false;
	fd = open_recorded(v, "pid", "start_time");
	return fd >= 0 && poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, 0) == 0;
}

int shim_kill_recorded(const char *runtime_dir)
{
	enum {
		DEATH_MS = 10000
	};
	int r;
	cleanup_json json_t *v = read_record(runtime_dir, "shim.json", &r);
	cleanup_close int engine = -EBADF, shim = -EBADF;

	if (!v || strcmp(jsonx_str(v, "boot_id", ""), proc_boot_id()) != 0)
		return v ? 0 : r;
	engine = open_recorded(v, "pid", "start_time");
	shim = open_recorded(v, "shim_pid", "shim_start_time");
	/* The engine first: the end of the shim is the end of all its children. */
	if (engine >= 0)
		(void)proc_signal(engine, SIGKILL);
	if (shim >= 0)
		(void)proc_signal(shim, SIGKILL);
	r = engine >= 0 ? fiber_wait_fd(engine, EV_READ, DEATH_MS) : 0;
	if (r == 0 && shim >= 0)
		r = fiber_wait_fd(shim, EV_READ, DEATH_MS);
	return r;
}

void shim_forget(const char *runtime_dir)
{
	static const char *const names[] = { "shim.sock", "shim.json", "exit.json" };
	cleanup_close int dir = fs_open_dir(AT_FDCWD, runtime_dir);

	for (size_t i = 0; i < ARRAY_SIZE(names) && dir >= 0; i++)
		(void)unlinkat(dir, names[i], 0);
}

/* Valid UTF-8 from bytes that may be anything: what is not becomes U+FFFD. */
static char *to_utf8(const char *data, size_t n)
{
	cleanup_strbuf struct strbuf out = STRBUF_INIT;

	for (size_t i = 0; i < n;) {
		unsigned char c = (unsigned char)data[i];
		size_t len = c < 0x80 ? 1 : c < 0xc2 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
		json_t *check = NULL;

		if (c == 0 || c > 0xf4 || len > n - i)
			len = 0;
		if (len > 1) {
			check = json_stringn(data + i, len); /* NULL when it is not UTF-8 */
			len = check ? len : 0;
			json_decref(check);
		}
		strbuf_append(&out, len ? data + i : "\xef\xbf\xbd", len ? len : 3);
		i += len ? len : 1;
	}
	strbuf_append(&out, "", 0);
	return out.data || strbuf_failed(&out) ? strbuf_steal(&out) : strdup("");
}

struct text_work {
	const char *state_dir;
	const struct shim_logs_opts *opts;
	size_t max_bytes;
	char *text;
	bool truncated;
};

/* Whole lines only, when the first ones do not fit. */
static void cut_front(struct strbuf *s, size_t max_bytes)
{
	size_t drop = s->len - max_bytes;
	const char *end = memchr(s->data + drop, '\n', s->len - drop);

	strbuf_consume(s, end ? (size_t)(end - s->data) + 1 : drop);
}

static int read_text(void *arg)
{
	struct text_work *w = arg;
	cleanup_close int dir = fs_open_dir(AT_FDCWD, w->state_dir);
	cleanup_strbuf struct strbuf s = STRBUF_INIT;
	struct conlog log;
	size_t total = 0;
	ssize_t n = 0;
	int r;

	if (dir < 0)
		return dir;
	r = conlog_open(&log, dir, w->opts->tail, w->opts->since_us, w->opts->timestamps);
	if (r < 0)
		return r;
	for (char *p; total < MAX_READ && (p = strbuf_reserve(&s, 65536)) &&
	              (n = conlog_read(&log, p, 65536)) > 0;) {
		strbuf_grew(&s, (size_t)n);
		total += (size_t)n;
		if (s.len > 2 * w->max_bytes) {
			cut_front(&s, w->max_bytes);
			w->truncated = true;
		}
	}
	conlog_close(&log);
	if (n < 0 || strbuf_failed(&s))
		return n < 0 ? (int)n : -ENOMEM;
	if (s.len > w->max_bytes) {
		cut_front(&s, w->max_bytes);
		w->truncated = true;
	}
	w->text = to_utf8(s.data, s.len);
	return w->text ? 0 : -ENOMEM;
}

int shim_logs_text(const char *state_dir, const struct shim_logs_opts *opts, size_t max_bytes,
                   char **ret_text, bool *ret_truncated, struct vmd_error *err)
{
	struct text_work w = { .state_dir = state_dir, .opts = opts, .max_bytes = max_bytes };
	int r = work_run(read_text, &w);

	if (r == -ENOENT) {
		w.text = strdup("");
		r = w.text ? 0 : -ENOMEM;
	}
	if (r < 0)
		return error_set_errno(err, -r, "cannot read the console log in '%s'", state_dir);
	*ret_text = w.text;
	if (ret_truncated)
		*ret_truncated = w.truncated;
	return 0;
}
