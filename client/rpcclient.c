/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "client/rpcclient.h"

#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "client/die.h"
#include "common/fdio.h"
#include "common/jsonx.h"
#include "common/strbuf.h"
#include "common/timeutil.h"

enum {
	READ_STEP = 65536,
	REPLY_MAX =
		256 << 20, /* a reply is never larger; protects against a peer that is not vmd */
};

volatile sig_atomic_t rpc_interrupted;
const sigset_t *rpc_wait_mask;
bool rpc_watch_stdout;

struct rpc {
	int fd;
	int64_t next_id;
	struct strbuf in;
	size_t scanned; /* bytes of in known to hold no newline */
	int fds[FDIO_MAX_FDS];
	size_t n_fds;
	rpc_notify_fn on_notify;
	void *userdata;
	json_t *error;
};

struct rpc *rpc_new(int fd)
{
	struct rpc *rpc = xcalloc(1, sizeof(*rpc));

	rpc->fd = fd;
	rpc->next_id = 1;
	return rpc;
}

int rpc_connect(const char *path, struct rpc **ret, struct vmd_error *err)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	cleanup_close int fd = -EBADF;

	if (strlen(path) >= sizeof(sa.sun_path)) {
		(void)error_set(err, ERROR_INVALID, "socket path '%s' is longer than %zu bytes",
		                path, sizeof(sa.sun_path) - 1);
		return -ENAMETOOLONG;
	}
	memcpy(sa.sun_path, path, strlen(path));
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return error_set_errno(err, errno, "cannot make a socket");
	if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
		return error_set_errno(err, errno, "cannot reach vmd at '%s'", path);
	*ret = rpc_new(TAKE_FD(fd));
	return 0;
}

void rpc_free(struct rpc *rpc)
{
	if (!rpc)
		return;
	close(rpc->fd);
	fd_close_many(rpc->fds, rpc->n_fds);
	strbuf_deinit(&rpc->in);
	json_decref(rpc->error);
	free(rpc);
}

int rpc_fd(const struct rpc *rpc)
{
	return rpc->fd;
}

void rpc_on_notify(struct rpc *rpc, rpc_notify_fn fn, void *userdata)
{
	rpc->on_notify = fn;
	rpc->userdata = userdata;
}

static int send_all(struct rpc *rpc, const char *text, size_t len, const int *fds, size_t n_fds,
                    struct vmd_error *err)
{
	while (len) {
		ssize_t n = fd_send(rpc->fd, text, len, fds, n_fds);

		/* What vmd said before it closed, a refusal mostly, is still to be read. */
		if (n == -EPIPE || n == -ECONNRESET)
			return 0;
		if (n < 0) {
			(void)error_set_errno(err, (int)-n, "vmd closed the connection");
			return -ENOTCONN;
		}
		text += n;
		len -= (size_t)n;
		n_fds = 0;
	}
	return 0;
}

int64_t rpc_send(struct rpc *rpc, const char *method, json_t *params, const int *fds, size_t n_fds,
                 struct vmd_error *err)
{
	cleanup_json json_t *message = xpack("{s:s, s:I, s:s}", "jsonrpc", "2.0", "id",
	                                     (json_int_t)rpc->next_id, "method", method);
	cleanup_free char *text = NULL;
	size_t len;
	int r;

	if (params)
		xset(message, "params", params);
	text = jsonx_dump(message);
	if (!text)
		die_no_memory();
	len = strlen(text);
	text[len] = '\n'; /* in place of the NUL */
	r = send_all(rpc, text, len + 1, fds, n_fds, err);
	return r < 0 ? r : rpc->next_id++;
}

static char *find_line(struct rpc *rpc)
{
	char *newline;

	if (rpc->scanned >= rpc->in.len)
		return NULL;
	newline = memchr(rpc->in.data + rpc->scanned, '\n', rpc->in.len - rpc->scanned);
	rpc->scanned = newline ? (size_t)(newline - rpc->in.data) : rpc->in.len;
	return newline;
}

bool rpc_pending(struct rpc *rpc)
{
	return find_line(rpc) != NULL;
}

static int wait_readable(struct rpc *rpc, uint64_t deadline_us)
{
	for (;;) {
		struct pollfd p[2] = { { .fd = rpc->fd, .events = POLLIN },
			               { .fd = rpc_watch_stdout ? STDOUT_FILENO : -1 } };
		uint64_t now = now_monotonic_us(), left;
		struct timespec limit = { 0 };
		int n;

		if (rpc_interrupted)
			return -EINTR;
		if (deadline_us) {
			if (now >= deadline_us)
				return -ETIMEDOUT;
			left = deadline_us - now;
			limit.tv_sec = (time_t)(left / 1000000);
			limit.tv_nsec = (long)(left % 1000000) * 1000;
		}
		n = ppoll(p, 2, deadline_us ? &limit : NULL, rpc_wait_mask);
		if (n > 0)
			return p[1].revents && !p[0].revents ? -EPIPE : 0;
		if (n < 0 && errno != EINTR)
			return -errno;
	}
}

static int read_more(struct rpc *rpc, struct vmd_error *err)
{
	char *room = strbuf_reserve(&rpc->in, READ_STEP);
	size_t got = 0;
	ssize_t n;

	if (!room)
		die_no_memory();
	n = fd_recv(rpc->fd, room, READ_STEP, rpc->fds + rpc->n_fds, FDIO_MAX_FDS - rpc->n_fds,
	            &got);
	rpc->n_fds += got;
	if (n <= 0) {
		(void)error_set(err, ERROR_INTERNAL, "vmd closed the connection");
		return -ENOTCONN;
	}
	strbuf_grew(&rpc->in, (size_t)n);
	if (rpc->in.len > REPLY_MAX)
		return error_set(err, ERROR_INTERNAL, "a message of vmd is longer than %d bytes",
		                 REPLY_MAX);
	return 0;
}

/* One message, read if none is buffered. */
static int next_message(struct rpc *rpc, uint64_t deadline_us, json_t **ret, struct vmd_error *err)
{
	json_error_t detail;
	char *newline;
	size_t len;

	while (!(newline = find_line(rpc))) {
		int r = wait_readable(rpc, deadline_us);

		if (r == -ETIMEDOUT)
			return error_set(err, ERROR_TIMEOUT, "vmd did not answer in time");
		if (r < 0)
			return error_set_errno(err, -r, "waiting for vmd");
		r = read_more(rpc, err);
		if (r < 0)
			return r;
	}
	len = (size_t)(newline - rpc->in.data);
	/* jansson's own limit of 2,048 levels will do here, and long lists parse faster so. */
	*ret = json_loadb(rpc->in.data, len, 0, &detail);
	strbuf_consume(&rpc->in, len + 1);
	rpc->scanned = 0;
	return *ret ? 0
	            : error_set(err, ERROR_PARSE, "vmd's reply is malformed at byte %d: %s",
	                        detail.position, detail.text);
}

/* True if it was a notification. */
static bool dispatch(struct rpc *rpc, const json_t *message)
{
	const char *method = jsonx_str(message, "method", NULL);

	if (!method || json_object_get(message, "id"))
		return false;
	if (rpc->on_notify)
		rpc->on_notify(rpc->userdata, method, json_object_get(message, "params"));
	return true;
}

int rpc_next(struct rpc *rpc, struct vmd_error *err)
{
	cleanup_json json_t *message = NULL;
	int r = next_message(rpc, 0, &message, err);

	if (r == 0)
		(void)dispatch(rpc, message);
	return r;
}

int rpc_receive(struct rpc *rpc, int64_t timeout_ms, int64_t *ret_id, json_t **ret_message,
                struct vmd_error *err)
{
	uint64_t deadline = timeout_ms < 0 ? 0 : now_monotonic_us() + (uint64_t)timeout_ms * 1000;

	for (;;) {
		cleanup_json json_t *message = NULL;
		json_t *id;
		int r = next_message(rpc, deadline, &message, err);

		if (r < 0)
			return r;
		if (dispatch(rpc, message))
			continue;
		id = json_object_get(message, "id");
		if (!json_is_integer(id) && !json_is_null(id))
			return error_set(err, ERROR_INTERNAL, "vmd's reply has no id");
		*ret_id = json_integer_value(id);
		*ret_message = TAKE_PTR(message);
		return 0;
	}
}

static enum error_kind kind_from_name(const char *name)
{
	for (int k = ERROR_NONE + 1; k < _ERROR_KIND_MAX; k++)
		if (strcmp(error_kind_name(k), name) == 0)
			return k;
	return ERROR_INTERNAL;
}

static enum error_kind kind_from_code(int64_t code)
{
	for (int k = ERROR_NONE + 1; k < _ERROR_KIND_MAX; k++)
		if (error_kind_code(k) == code)
			return k;
	return ERROR_INTERNAL;
}

int rpc_error_read(const json_t *error, struct vmd_error *err)
{
	const json_t *data = json_object_get(error, "data");
	const char *kind = jsonx_str(data, "kind", jsonx_str(error, "kind", NULL));

	*err = (struct vmd_error)VMD_ERROR_INIT;
	err->kind = kind ? kind_from_name(kind) : kind_from_code(jsonx_int(error, "code", 0));
	snprintf(err->message, sizeof(err->message), "%s",
	         jsonx_str(error, "message", "vmd gave no reason"));
	if (!data)
		data = error;
	snprintf(err->field, sizeof(err->field), "%s", jsonx_str(data, "field", ""));
	snprintf(err->hint, sizeof(err->hint), "%s", jsonx_str(data, "hint", ""));
	snprintf(err->job, sizeof(err->job), "%s", jsonx_str(data, "job", ""));
	return -error_kind_errno(err->kind);
}

int rpc_result(struct rpc *rpc, json_t *message, json_t **ret_result, struct vmd_error *err)
{
	json_t *error = json_object_get(message, "error");
	json_t *result = json_object_get(message, "result");

	json_decref(rpc->error);
	rpc->error = json_incref(error);
	if (error)
		return rpc_error_read(error, err);
	if (!result)
		return error_set(err, ERROR_INTERNAL, "vmd's reply has neither result nor error");
	*ret_result = json_incref(result);
	return 0;
}

const json_t *rpc_error(const struct rpc *rpc)
{
	return rpc ? rpc->error : NULL;
}

int rpc_call(struct rpc *rpc, const char *method, json_t *params, int64_t timeout_ms,
             json_t **ret_result, struct vmd_error *err)
{
	int64_t sent = rpc_send(rpc, method, params, NULL, 0, err), id = 0;

	if (sent < 0)
		return (int)sent;
	for (;;) {
		cleanup_json json_t *message = NULL;
		int r = rpc_receive(rpc, timeout_ms, &id, &message, err);

		if (r < 0)
			return r;
		/* id null (0 here): vmd could not even read the request's id. */
		if (id == sent || id == 0)
			return rpc_result(rpc, message, ret_result, err);
	}
}

int rpc_take_fd(struct rpc *rpc, size_t index)
{
	return index < rpc->n_fds ? TAKE_FD(rpc->fds[index]) : -EBADF;
}
