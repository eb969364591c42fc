/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/jsonx.h"
#include "common/parse.h"
#include "common/shim-proto.h"
#include "common/timeutil.h"
#include "shim/shim.h"

#define MAX_DOC_BYTES (1 << 20)
#define MAX_ARGS      4096
#define MAX_FD        1023
#define MAX_TARGET    500 /* proc_spawn() uses numbers from 512 for itself */

static int bad(struct vmd_error *err, const char *what)
{
	return error_set(err, ERROR_INVALID, "launch document: %s", what);
}

/* A descriptor of this process by its number in the document; absent is -EBADF. */
static int get_fd(const json_t *doc, const char *key, int *ret, struct vmd_error *err)
{
	const json_t *v = json_object_get(doc, key);
	json_int_t n = json_integer_value(v);

	*ret = -EBADF;
	if (!v)
		return 0;
	if (!json_is_integer(v) || n <= SHIM_LAUNCH_FD || n > MAX_FD || fcntl((int)n, F_GETFD) < 0)
		return error_set(err, ERROR_INVALID, "launch document: '%s' is no open descriptor",
		                 key);
	*ret = (int)n;
	return 0;
}

static int get_number(const json_t *doc, const char *key, uint64_t min, uint64_t max,
                      uint64_t fallback, uint64_t *ret, struct vmd_error *err)
{
	const json_t *v = json_object_get(doc, key);

	*ret = fallback;
	if (!v)
		return 0;
	if (!json_is_integer(v) || json_integer_value(v) < 0 ||
	    (uint64_t)json_integer_value(v) < min || (uint64_t)json_integer_value(v) > max)
		return error_set(err, ERROR_INVALID,
		                 "launch document: '%s' is not between %llu and %llu", key,
		                 (unsigned long long)min, (unsigned long long)max);
	*ret = (uint64_t)json_integer_value(v);
	return 0;
}

static int get_dir(const json_t *doc, const char *key, char ret[PATH_MAX], struct vmd_error *err)
{
	const char *path = jsonx_str(doc, key, "");

	if (path[0] != '/' || strlen(path) >= PATH_MAX)
		return error_set(err, ERROR_INVALID, "launch document: '%s' is no absolute path",
		                 key);
	snprintf(ret, PATH_MAX, "%s", path);
	return 0;
}

static int check_fds(const json_t *fds, int ready_fd, struct vmd_error *err)
{
	uint64_t seen[(MAX_TARGET + 64) / 64] = { 0 };
	size_t i;
	json_t *pair;

	if (fds && (!json_is_array(fds) || json_array_size(fds) > SPAWN_MAX_FDS - 3))
		return bad(err, "'fds' is no list of pairs");
	json_array_foreach(fds, i, pair) {
		json_int_t source = json_integer_value(json_array_get(pair, 0));
		json_int_t target = json_integer_value(json_array_get(pair, 1));

		if (json_array_size(pair) != 2 || !json_is_integer(json_array_get(pair, 0)) ||
		    !json_is_integer(json_array_get(pair, 1)))
			return bad(err, "'fds' is no list of pairs");
		if (source <= SHIM_LAUNCH_FD || source > MAX_FD || source == ready_fd ||
		    fcntl((int)source, F_GETFD) < 0)
			return bad(err, "a source in 'fds' is no open descriptor");
		if (target < 0 || target == 1 || target == 2 || target > MAX_TARGET ||
		    (seen[target / 64] & (1ull << (target % 64))))
			return bad(err, "a target in 'fds' is out of range or there twice");
		seen[target / 64] |= 1ull << (target % 64);
	}
	return 0;
}

#define GRACE_MS     500
#define MAX_GRACE_MS 60000

static int get_flag(const json_t *doc, const char *key, bool *ret, struct vmd_error *err)
{
	const json_t *v = json_object_get(doc, key);

	*ret = json_is_true(v);
	if (!v || json_is_boolean(v))
		return 0;
	return error_set(err, ERROR_INVALID, "launch document: '%s' is no truth value", key);
}

static int check_proc(struct child *c, const json_t *proc, int ready_fd, struct vmd_error *err)
{
	const json_t *argv = json_object_get(proc, "argv");
	uint64_t grace_ms;
	const char *name = jsonx_str(proc, "name", "");
	json_t *arg;
	size_t i;

	if (!name[0] || strlen(name) >= sizeof(c->name))
		return bad(err, "a process has no usable 'name'");
	if (json_array_size(argv) == 0 || json_array_size(argv) > MAX_ARGS)
		return bad(err, "'argv' is no list of strings");
	json_array_foreach(argv, i, arg)
		if (!json_is_string(arg))
			return bad(err, "'argv' is no list of strings");
	if (!json_string_value(json_array_get(argv, 0))[0])
		return bad(err, "'argv' names no program");
	if (get_flag(proc, "vital", &c->vital, err) < 0 ||
	    get_flag(proc, "jail", &c->jailed, err) < 0 ||
	    get_number(proc, "grace_ms", 0, MAX_GRACE_MS, GRACE_MS, &grace_ms, err) < 0)
		return -EINVAL;
	snprintf(c->name, sizeof(c->name), "%s", name);
	c->grace_us = grace_ms * 1000;
	c->pidfd = c->err_fd = -EBADF;
	return check_fds(json_object_get(proc, "fds"), ready_fd, err);
}

static int check_procs(struct shim *s, const struct launch_doc *doc, struct vmd_error *err)
{
	const json_t *procs = json_object_get(doc->root, "procs");
	json_t *proc;
	size_t i;

	if (json_array_size(procs) == 0 || json_array_size(procs) > MAX_PROCS)
		return bad(err, "'procs' is no list of 1 to 12 processes");
	json_array_foreach(procs, i, proc) {
		int r = check_proc(&s->procs[i], proc, doc->ready_fd, err);

		if (r < 0)
			return r;
		for (size_t k = 0; k < i; k++)
			if (strcmp(s->procs[k].name, s->procs[i].name) == 0)
				return bad(err, "two processes have one name");
	}
	s->n_procs = json_array_size(procs);
	return 0;
}

static json_t *read_doc(struct vmd_error *err)
{
	cleanup_free char *text = NULL;
	struct stat st;
	json_t *root;
	ssize_t n;

	if (fstat(SHIM_LAUNCH_FD, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size > MAX_DOC_BYTES) {
		(void)bad(err, "descriptor 3 is not a file of at most 1 MiB");
		return NULL;
	}
	text = malloc((size_t)st.st_size + 1);
	if (!text || lseek(SHIM_LAUNCH_FD, 0, SEEK_SET) < 0)
		n = -1;
	else
		n = fd_read_all(SHIM_LAUNCH_FD, text, (size_t)st.st_size);
	close(SHIM_LAUNCH_FD);
	if (n < 0) {
		(void)bad(err, "descriptor 3 cannot be read");
		return NULL;
	}
	root = jsonx_parse(text, (size_t)n, 8, err);
	if (!root)
		error_prefix(err, "launch document");
	return root;
}

static int read_members(struct shim *s, struct launch_doc *doc, struct vmd_error *err)
{
	const json_t *root = doc->root;
	const char *uuid = jsonx_str(root, "uuid", ""), *name = jsonx_str(root, "name", "");
	uint64_t files, ring;
	int r;

	if (!json_is_object(root) || jsonx_int(root, "version", 0) != SHIM_PROTO_VERSION)
		return bad(err, "not of version 1");
	if (!is_uuid(uuid) || !is_object_name(name))
		return bad(err, "'uuid' or 'name' is malformed");
	snprintf(s->uuid, sizeof(s->uuid), "%s", uuid);
	snprintf(s->name, sizeof(s->name), "%s", name);
	if ((r = get_dir(root, "runtime_dir", s->runtime_dir, err)) < 0 ||
	    (r = get_dir(root, "state_dir", s->state_dir, err)) < 0 ||
	    (r = get_number(root, "log_max_bytes", 0, 1ull << 40, 4 << 20, &doc->log_max_bytes,
	                    err)) < 0 ||
	    (r = get_number(root, "log_files", 1, CONLOG_MAX_FILES, 4, &files, err)) < 0 ||
	    (r = get_number(root, "ring_bytes", 4096, 64 << 20, 256 << 10, &ring, err)) < 0 ||
	    (r = get_fd(root, "ready_fd", &doc->ready_fd, err)) < 0 ||
	    (r = get_fd(root, "lock_fd", &doc->lock_fd, err)) < 0 ||
	    (r = get_fd(root, "gate_fd", &doc->gate_fd, err)) < 0 ||
	    (r = get_fd(root, "qmp_fd", &s->qmp_fd, err)) < 0 ||
	    (r = get_fd(root, "console_fd", &s->console.fd, err)) < 0)
		return r;
	if (doc->ready_fd < 0)
		return bad(err, "'ready_fd' is missing");
	doc->log_files = (unsigned)files;
	s->console.ring_bytes = (size_t)ring;
	return check_procs(s, doc, err);
}

int launch_read(struct shim *s, struct launch_doc *doc, struct vmd_error *err)
{
	doc->root = read_doc(err);
	if (!doc->root)
		return -EINVAL;
	return read_members(s, doc, err);
}

/* The descriptors of one process: its own list, our pipe as stdout and stderr, the lock. */
static size_t fill_fds(struct spawn_fd *fds, const json_t *list, int err_fd, int lock_fd)
{
	size_t n = 0, i;
	int top = 2;
	json_t *pair;

	json_array_foreach(list, i, pair) {
		fds[n].source = (int)json_integer_value(json_array_get(pair, 0));
		fds[n].target = (int)json_integer_value(json_array_get(pair, 1));
		top = MAX_OF(top, fds[n].target);
		n++;
	}
	fds[n++] = (struct spawn_fd){ err_fd, 1 };
	fds[n++] = (struct spawn_fd){ err_fd, 2 };
	if (lock_fd >= 0)
		fds[n++] = (struct spawn_fd){ lock_fd, top + 1 };
	return n;
}

/* The guest runs all the same: its other walls stand. Whoever looks finds it in the engine's log.
 */
static void tell_no_landlock(struct shim *s, const struct child *c, int e)
{
	char text[160];
	int n = snprintf(text, sizeof(text), "%s: files are not fenced off, no Landlock: %s\n",
	                 c->name, strerror(e));

	logfile_write(&s->engine_log, text, (size_t)n, now_wall_us());
}

static int spawn_one(struct shim *s, struct child *c, const json_t *proc, int lock_fd,
                     struct vmd_error *err)
{
	const json_t *argv_json = json_object_get(proc, "argv");
	size_t argc = json_array_size(argv_json);
	cleanup_free char **argv = calloc(argc + 1, sizeof(*argv));
	cleanup_close int rd = -EBADF, wr = -EBADF;
	struct spawn_fd fds[SPAWN_MAX_FDS];
	struct spawn_spec spec = { .fds = fds, .death_signal = SIGKILL, .null_stdio = true };
	struct jail jail = { .ruleset_fd = -EBADF };
	int pipes[2], r;

	if (!argv || pipe2(pipes, O_CLOEXEC) < 0)
		return error_set_errno(err, argv ? errno : ENOMEM, "cannot start '%s'", c->name);
	rd = pipes[0];
	wr = pipes[1];
	for (size_t i = 0; i < argc; i++)
		argv[i] = (char *)(uintptr_t)json_string_value(json_array_get(argv_json, i));
	spec.path = argv[0];
	spec.argv = argv;
	spec.n_fds = fill_fds(fds, json_object_get(proc, "fds"), wr, lock_fd);
	if (c->jailed) {
		r = jail_prepare(&jail, argv[0], fds, spec.n_fds);
		if (r < 0)
			tell_no_landlock(s, c, -r);
		spec.confine = jail_enter;
		spec.confine_arg = &jail;
	}
	r = proc_spawn(&spec, &c->pid, &c->pidfd, err);
	jail_deinit(&jail);
	if (r < 0)
		return r;
	(void)fd_set_nonblock(rd, 1);
	c->err_fd = TAKE_FD(rd);
	c->running = true;
	c->start_time = proc_start_time(c->pid);
	return 0;
}

int launch_spawn(struct shim *s, struct launch_doc *doc, const char **ret_name,
                 struct vmd_error *err)
{
	const json_t *procs = json_object_get(doc->root, "procs");

	for (size_t i = 0; i < s->n_procs; i++) {
		bool engine = i + 1 == s->n_procs;
		int r;

		if (engine) {
			s->start_mono_us = now_monotonic_us();
			s->start_wall_us = now_wall_us();
		}
		r = spawn_one(s, &s->procs[i], json_array_get(procs, i), engine ? doc->lock_fd : -1,
		              err);
		if (r < 0) {
			*ret_name = s->procs[i].name;
			child_kill_all(s);
			return r;
		}
	}
	return 0;
}

void launch_close_rest(struct shim *s, int ready_fd)
{
	bool keep[MAX_FD + 1] = { false };
	int kept[] = { s->dir_fd, s->listen_fd, s->signal_fd, s->qmp_fd, s->console.fd, ready_fd };
	unsigned from = 3;

	for (size_t i = 0; i < ARRAY_SIZE(kept); i++)
		if (kept[i] >= 0 && kept[i] <= MAX_FD)
			keep[kept[i]] = true;
	for (size_t i = 0; i < s->n_procs; i++) {
		keep[MAX_OF(s->procs[i].pidfd, 0)] = true;
		keep[MAX_OF(s->procs[i].err_fd, 0)] = true;
	}
	for (unsigned fd = from; fd <= MAX_FD; fd++) {
		if (!keep[fd])
			continue;
		if (fd > from)
			(void)close_range(from, fd - 1, 0);
		from = fd + 1;
	}
	(void)close_range(from, ~0u, 0);
}
