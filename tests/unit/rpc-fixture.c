/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "tests/unit/rpc-fixture.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/fdio.h"
#include "common/jsonx.h"
#include "common/strbuf.h"
#include "daemon/event.h"
#include "daemon/fiber.h"
#include "daemon/guest.h"
#include "daemon/job.h"
#include "daemon/outq.h"
#include "daemon/peer.h"
#include "daemon/rpc.h"
#include "daemon/store.h"

struct vmd vmd;
json_t *stored;
unsigned commits, delivered, refused;
bool store_is_full;
int calls_of_create;
char handler_trace[512];

/* --- the store --- */

struct store_txn {
	json_t *changes; /* "kind/id" -> value, or null to delete */
};

struct store_txn *store_txn_new(struct store *s)
{
	struct store_txn *t = calloc(1, sizeof(*t));

	(void)s;
	t->changes = json_object();
	return t;
}

void store_txn_free(struct store_txn *t)
{
	if (!t)
		return;
	json_decref(t->changes);
	free(t);
}

void store_put_json(struct store_txn *t, const char *kind, const char *id, const json_t *value)
{
	char key[64];

	snprintf(key, sizeof(key), "%s/%s", kind, id);
	json_object_set_new(t->changes, key, json_deep_copy(value));
}

void store_delete(struct store_txn *t, const char *kind, const char *id)
{
	char key[64];

	snprintf(key, sizeof(key), "%s/%s", kind, id);
	json_object_set_new(t->changes, key, json_null());
}

void store_commit_async(struct store_txn *t)
{
	const char *key;
	json_t *value;

	json_object_foreach(t->changes, key, value)
		if (json_is_null(value))
			json_object_del(stored, key);
		else
			json_object_set(stored, key, value);
	commits++;
	store_txn_free(t);
}

int store_commit(struct store_txn *t, struct vmd_error *err)
{
	if (fiber_sleep_ms(0) < 0 || store_is_full) {
		store_txn_free(t);
		return error_set(err, ERROR_NO_SPACE, "the disk is full");
	}
	store_commit_async(t);
	return 0;
}

/* --- events --- */

struct event_sub {
	event_deliver_fn deliver;
	void *userdata;
	bool stalled;
};

static struct event_sub *subs[16];

uint64_t event_publish(struct event_hub *hub, struct store_txn *txn, const struct event *e)
{
	(void)hub;
	(void)txn;
	json_decref(e->data);
	return 1;
}

void event_flush(struct event_hub *hub, uint64_t seq)
{
	(void)hub;
	(void)seq;
}

void event_drop(struct event_hub *hub, uint64_t seq)
{
	(void)hub;
	(void)seq;
}

uint64_t event_last_seq(const struct event_hub *hub)
{
	(void)hub;
	return 41;
}

int event_subscribe(struct event_hub *hub, const json_t *filter, uint64_t since,
                    event_deliver_fn deliver, void *userdata, struct event_sub **ret)
{
	(void)hub;
	(void)filter;
	for (size_t i = 0; i < ARRAY_SIZE(subs); i++) {
		if (subs[i])
			continue;
		*ret = subs[i] = calloc(1, sizeof(**ret));
		subs[i]->deliver = deliver;
		subs[i]->userdata = userdata;
		if (since != UINT64_MAX && !deliver(userdata, "\"replayed\"", 10))
			subs[i]->stalled = true;
		return 0;
	}
	return -ENOSPC;
}

void event_sub_resume(struct event_sub *sub)
{
	if (sub->stalled)
		sub->stalled = !sub->deliver(sub->userdata, "\"resumed\"", 9);
}

void event_unsubscribe(struct event_sub *sub)
{
	for (size_t i = 0; i < ARRAY_SIZE(subs); i++)
		if (subs[i] == sub)
			subs[i] = NULL;
	free(sub);
}

void publish(const char *text)
{
	for (size_t i = 0; i < ARRAY_SIZE(subs); i++) {
		if (!subs[i] || subs[i]->stalled)
			continue;
		if (subs[i]->deliver(subs[i]->userdata, text, strlen(text))) {
			delivered++;
		} else {
			refused++;
			subs[i]->stalled = true;
		}
	}
}

struct guest *registry_find(struct registry *r, const char *reference)
{
	(void)r;
	(void)reference;
	return NULL;
}

/* --- methods of the contract with handlers of our own --- */

static void note(const char *what, const char *vm)
{
	size_t len = strlen(handler_trace);

	snprintf(handler_trace + len, sizeof(handler_trace) - len, "%s:%s ", what, vm);
}

static int vm_get(struct call *call, struct vmd_error *err)
{
	const char *vm = jsonx_str(call->params, "vm", "");
	char *text = NULL;

	if (strcmp(vm, "none") == 0) {
		(void)error_set(err, ERROR_NOT_FOUND, "there is no guest '%s'", vm);
		error_hint(err, "make one");
		return -ENOENT;
	}
	if (asprintf(&text, "{\"name\":\"%s\"}", vm) < 0)
		return -ENOMEM;
	call_reply_text(call, text, strlen(text));
	return 0;
}

/* 100,000 bytes that all replies share. */
static int vm_list(struct call *call, struct vmd_error *err)
{
	static struct shared_text *shared;

	(void)err;
	if (!shared) {
		char *text = malloc(100000);

		memset(text, 'x', 100000);
		text[0] = text[99999] = '"';
		shared = shared_text_new(text, 100000);
	}
	call_reply_shared(call, shared);
	return 0;
}

static int vm_create(struct call *call, struct vmd_error *err)
{
	const json_t *definition = json_object_get(call->params, "definition");
	const char *name = jsonx_str(definition, "name", "");
	struct store_txn *txn;
	json_t *result;
	int r;

	calls_of_create++;
	if (strcmp(name, "bad") == 0)
		return error_set_field(err, "definition.name", "a bad name");
	if (strcmp(name, "slow") == 0) {
		r = fiber_sleep_ms(20);
		if (r < 0)
			return r;
	}
	note("create", name);
	result = json_pack("{s:i}", "made", calls_of_create);
	txn = store_txn_new(call->vmd->store);
	store_put_json(txn, "guests", name, definition);
	if (jsonx_bool(json_object_get(definition, "labels"), "unused", true))
		call_record_key(call, txn, result);
	r = store_commit(txn, err);
	call_reply(call, result);
	return r;
}

static int vm_reset(struct call *call, struct vmd_error *err)
{
	const char *vm = jsonx_str(call->params, "vm", "");

	(void)err;
	note("reset", vm);
	if (strcmp(vm, "slow") == 0 && fiber_sleep_ms(20) < 0)
		return -ECANCELED;
	note("done", vm);
	return 0;
}

static int vm_kill(struct call *call, struct vmd_error *err)
{
	(void)err;
	note("kill", jsonx_str(call->params, "vm", ""));
	return 0;
}

static int vm_start(struct call *call, struct vmd_error *err)
{
	(void)err;
	job_progress(call->job, "starting", 50, 0, 0);
	if (fiber_sleep_ms(20) < 0)
		return -ECANCELED;
	note("start", jsonx_str(call->params, "vm", ""));
	call_reply(call, json_pack("{s:s}", "state", "running"));
	return 0;
}

static int vm_stats(struct call *call, struct vmd_error *err)
{
	struct waitq never;

	(void)call;
	(void)err;
	waitq_init(&never);
	note("wait", "");
	return waitq_wait(&never, -1);
}

/* Answers with the end of a pipe. */
static int console_open(struct call *call, struct vmd_error *err)
{
	int p[2];

	if (pipe2(p, O_CLOEXEC) < 0)
		return error_set_errno(err, errno, "pipe");
	if (write(p[1], "hi", 2) != 2)
		return -EIO;
	close(p[1]);
	call_reply(call, json_pack("{s:{s:i}}", "stream", "fd", call_reply_fd(call, p[0])));
	return 0;
}

/* Reads from the descriptors that came with it. */
static int host_info(struct call *call, struct vmd_error *err)
{
	char text[64] = "";
	size_t len = 0;

	(void)err;
	for (size_t i = 0; i < call->n_fds; i++) {
		ssize_t n = read(call->fds[i], text + len, sizeof(text) - 1 - len);

		len += n > 0 ? (size_t)n : 0;
	}
	call_reply(call, json_pack("{s:i, s:s}", "fds", (int)call->n_fds, "text", text));
	return 0;
}

static const struct method methods[] = {
	{ "vm.get", ROLE_VIEWER, METHOD_READ, vm_get },
	{ "vm.list", ROLE_VIEWER, METHOD_READ, vm_list },
	{ "vm.create", ROLE_OPERATOR, METHOD_FIBER | METHOD_CHANGE, vm_create },
	{ "vm.reset", ROLE_OPERATOR, METHOD_FIBER | METHOD_CHANGE, vm_reset },
	{ "vm.kill", ROLE_OPERATOR, METHOD_FIBER | METHOD_CHANGE | METHOD_URGENT, vm_kill },
	{ "vm.start", ROLE_OPERATOR, METHOD_JOB | METHOD_CHANGE, vm_start },
	{ "vm.stats", ROLE_VIEWER, METHOD_FIBER, vm_stats },
	{ "console.open", ROLE_VIEWER, METHOD_FIBER, console_open },
	{ "host.info", ROLE_VIEWER, METHOD_READ, host_info },
	{ NULL, 0, 0, NULL },
};

/* --- the fixture --- */

void rpc_setup(void)
{
	static const struct method *const tables[] = { methods, event_methods };
	struct vmd_error err = VMD_ERROR_INIT;

	vmd.loop = ev_loop_new(EVFLAG_AUTO | EVFLAG_NOENV);
	config_defaults(&vmd.config);
	stored = json_object();
	fiber_init(vmd.loop);
	cr_assert_eq(jobs_new(&vmd), 0);
	cr_assert_eq(rpc_new(&vmd, tables, 2, false, NULL, &err), 0, "%s", err.message);
}

void rpc_teardown(void)
{
	rpc_free(vmd.rpc);
	for (int i = 0; i < 50 && fiber_count(); i++) {
		ev_sleep(0.005);
		turn();
	}
	cr_assert_eq(fiber_count(), 0u);
	jobs_free(&vmd);
	fiber_deinit();
	ev_loop_destroy(vmd.loop);
	json_decref(stored);
}

int connect_as(enum role role)
{
	struct auth_peer who = { .pid = getpid(), .uid = 1000, .gid = 1000, .role = role };
	struct vmd_error err = VMD_ERROR_INIT;
	int s[2];

	cr_assert_eq(peers_admit(rpc_peers(vmd.rpc), who.uid, &err), 0, "%s", err.message);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, s), 0);
	cr_assert_eq(peers_add(rpc_peers(vmd.rpc), s[0], &who), 0);
	return s[1];
}

void turn(void)
{
	ev_run(vmd.loop, EVRUN_NOWAIT);
}

/* Turns until fd can be used, as poll(2) would wait. */
static void turn_or_rest(void)
{
	turn();
	ev_sleep(0.0002);
}

void send_fds(int fd, const char *text, const int *fds, size_t n)
{
	size_t len = strlen(text);

	while (len) {
		ssize_t sent = fd_send(fd, text, len, fds, n);

		if (sent == -EAGAIN) {
			turn_or_rest();
			continue;
		}
		cr_assert_gt(sent, 0);
		text += sent;
		len -= (size_t)sent;
		n = 0;
	}
}

void send_text(int fd, const char *text)
{
	send_fds(fd, text, NULL, 0);
}

/* Reads one byte; 1, 0 at the end, -EAGAIN. */
static int read_byte(int fd, char *c)
{
	ssize_t n = read(fd, c, 1);

	if (n < 0)
		return errno == EAGAIN ? -EAGAIN : 0;
	return (int)n;
}

static bool read_line(int fd, struct strbuf *out)
{
	for (;;) {
		char c;
		int r = read_byte(fd, &c);

		if (r == -EAGAIN) {
			turn_or_rest();
			continue;
		}
		if (r == 0)
			return false;
		if (c == '\n')
			return true;
		strbuf_append_char(out, c);
	}
}

json_t *next_reply(int fd)
{
	cleanup_strbuf struct strbuf line = STRBUF_INIT;
	json_t *value;

	if (!read_line(fd, &line))
		return NULL;
	value = json_loadb(line.data, line.len, JSON_REJECT_DUPLICATES, NULL);
	cr_assert_not_null(value, "no JSON: %s", line.data);
	return value;
}

char *read_to_end(int fd)
{
	struct strbuf out = STRBUF_INIT;

	while (read_line(fd, &out))
		strbuf_append_char(&out, '\n');
	return strbuf_steal(&out);
}

char *read_until(int fd, const char *text)
{
	struct strbuf out = STRBUF_INIT;
	size_t n = strlen(text);
	char c;

	while (out.len < n || memcmp(out.data + out.len - n, text, n) != 0) {
		int r = read_byte(fd, &c);

		cr_assert_neq(r, 0, "ended before '%s' came: %s", text, out.data);
		if (r > 0)
			strbuf_append_char(&out, c);
		else
			turn_or_rest();
	}
	return strbuf_steal(&out);
}

json_t *ask(int fd, const char *line)
{
	send_text(fd, line);
	send_text(fd, "\n");
	return next_reply(fd);
}

void expect_kind(json_t *reply, const char *kind)
{
	const json_t *error = json_object_get(reply, "error");
	const char *got = jsonx_str(json_object_get(error, "data"), "kind", "no error");

	cr_assert_str_eq(got, kind, "%s, not %s: %s", got, kind, json_dumps(reply, 0));
	json_decref(reply);
}

void expect_silence(int fd)
{
	char c;

	for (int i = 0; i < 20; i++)
		turn();
	cr_assert_eq(read_byte(fd, &c), -EAGAIN);
}

unsigned open_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n;
}
