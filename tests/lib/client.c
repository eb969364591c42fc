/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "tests/lib/client.h"

#include <criterion/criterion.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "api/contract.h"
#include "common/fdio.h"
#include "common/jsonx.h"
#include "common/timeutil.h"
#include "tests/lib/engine.h"

bool client_open(struct client *c, const char *socket_path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	memset(c, 0, sizeof(*c));
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", socket_path);
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cr_assert_geq(c->fd, 0);
	if (connect(c->fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		close(c->fd);
		c->fd = -1;
		return false;
	}
	c->events = json_array();
	return true;
}

void client_of_fd(struct client *c, int fd)
{
	memset(c, 0, sizeof(*c));
	c->fd = fd;
	c->events = json_array();
}

void client_close(struct client *c)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	fd_close_many(c->fds, c->n_fds);
	c->n_fds = 0;
	free(c->buffer);
	c->buffer = NULL;
	json_decref(c->events);
	c->events = NULL;
}

static int left_ms(uint64_t deadline_us)
{
	uint64_t now = now_monotonic_us();

	return now >= deadline_us ? 0 : (int)((deadline_us - now) / 1000 + 1);
}

bool client_send(struct client *c, const void *data, size_t len)
{
	const char *p = data;

	while (len > 0) {
		ssize_t n = send(c->fd, p, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		p += n;
		len -= (size_t)n;
	}
	return true;
}

/* Receives once. 1 for bytes, 0 for closed, -1 for nothing in time. */
static int receive(struct client *c, uint64_t deadline_us)
{
	struct pollfd p = { .fd = c->fd, .events = POLLIN };
	size_t n_fds = 0;
	ssize_t n;

	if (poll(&p, 1, left_ms(deadline_us)) <= 0)
		return -1;
	if (c->cap - c->len < 65536) {
		c->cap = c->cap * 2 + 131072;
		c->buffer = realloc(c->buffer, c->cap);
		cr_assert(c->buffer);
	}
	n = fd_recv(c->fd, c->buffer + c->len, c->cap - c->len - 1, c->fds + c->n_fds, 8 - c->n_fds,
	            &n_fds);
	c->n_fds += n_fds;
	if (n <= 0)
		return 0;
	c->len += (size_t)n;
	return 1;
}

/* The next whole line, or NULL when there is none in the buffer. */
static json_t *take_line(struct client *c)
{
	char *end = c->len ? memchr(c->buffer, '\n', c->len) : NULL;
	json_error_t error;
	json_t *message;
	size_t n;

	if (!end)
		return NULL;
	n = (size_t)(end - c->buffer) + 1;
	message = json_loadb(c->buffer, n, 0, &error);
	cr_assert(message, "not JSON: %s in %.*s", error.text, (int)(n > 300 ? 300 : n), c->buffer);
	memmove(c->buffer, c->buffer + n, c->len - n);
	c->len -= n;
	return message;
}

json_t *client_read(struct client *c, int timeout_ms, bool *ret_closed)
{
	uint64_t deadline = now_monotonic_us() + (uint64_t)timeout_ms * 1000;
	int got = 1;

	if (ret_closed)
		*ret_closed = false;
	for (;;) {
		json_t *message = take_line(c);

		if (message && json_object_get(message, "method")) {
			json_array_append(c->events, json_object_get(message, "params"));
			json_decref(message);
			continue;
		}
		if (message)
			return message;
		got = receive(c, deadline);
		if (got == 1)
			continue;
		if (ret_closed)
			*ret_closed = got == 0;
		return NULL;
	}
}

/* Every result that any test gets has to be what the contract says. */
static void check_result(const char *method, const json_t *reply)
{
	static struct contract *contract;
	struct vmd_error err = VMD_ERROR_INIT;
	const json_t *result = json_object_get(reply, "result");
	const struct contract_method *m;

	if (!contract)
		cr_assert_eq(contract_open(&contract, &err), 0, "%s", err.message);
	m = contract_method(contract, method);
	if (m && result && !json_object_get(result, "job"))
		cr_assert_eq(schema_check(m->result, result, &err), 0,
		             "the result of %s is not what the contract says: %s: %s", method,
		             err.field, err.message);
}

json_t *call_raw(struct client *c, const char *method, json_t *params, const int *fds, size_t n)
{
	unsigned id = ++c->next_id;
	json_t *request = json_pack("{s:s, s:I, s:s, s:o*}", "jsonrpc", "2.0", "id", (json_int_t)id,
	                            "method", method, "params", params);
	cleanup_free char *text = json_dumps(request, JSON_COMPACT);
	bool closed = false;
	json_t *reply;
	size_t len;
	ssize_t sent;

	json_decref(request);
	cr_assert(text);
	fd_close_many(c->fds, c->n_fds);
	c->n_fds = 0;
	len = strlen(text);
	text[len] = '\n'; /* instead of the terminator: the length is known */
	sent = fd_send(c->fd, text, len + 1, fds, n);
	cr_assert_gt(sent, 0, "%s: cannot send", method);
	cr_assert(client_send(c, text + sent, len + 1 - (size_t)sent), "%s: cannot send", method);
	reply = client_read(c, CALL_TIMEOUT_MS, &closed);
	cr_assert(reply, "%s: %s", method, closed ? "connection closed" : "no reply in time");
	cr_assert_eq(json_integer_value(json_object_get(reply, "id")), id, "%s: wrong id", method);
	check_result(method, reply);
	return reply;
}

/* A reply as text, for messages of failed tests; never freed, the test is over. */
static const char *told(const json_t *reply)
{
	return json_dumps(reply, JSON_COMPACT);
}

static json_t *pack(const char *method, const char *format, va_list args)
{
	json_error_t error;
	json_t *params;

	if (!format)
		return NULL;
	params = json_vpack_ex(&error, 0, format, args);
	cr_assert(params, "%s: the test packs wrongly: %s", method, error.text);
	return params;
}

static json_t *call_list(struct client *c, const char *method, const char *format, va_list args)
{
	json_t *reply = call_raw(c, method, pack(method, format, args), NULL, 0);
	json_t *result = json_incref(json_object_get(reply, "result"));

	cr_assert(result, "%s failed: %s", method, told(reply));
	json_decref(reply);
	return result;
}

json_t *call(struct client *c, const char *method, const char *params, ...)
{
	va_list args;
	json_t *result;

	va_start(args, params);
	result = call_list(c, method, params, args);
	va_end(args);
	return result;
}

void call_ok(struct client *c, const char *method, const char *params, ...)
{
	va_list args;

	va_start(args, params);
	json_decref(call_list(c, method, params, args));
	va_end(args);
}

struct refusal refusal_of(const json_t *reply)
{
	const json_t *error = json_object_get(reply, "error");
	const json_t *data = json_object_get(error, "data");
	struct refusal r = { 0 };

	cr_assert(json_is_object(error), "a result where an error was due: %s", told(reply));
	r.code = (int)json_integer_value(json_object_get(error, "code"));
	snprintf(r.kind, sizeof(r.kind), "%s", jsonx_str(data, "kind", ""));
	snprintf(r.message, sizeof(r.message), "%s", jsonx_str(error, "message", ""));
	snprintf(r.field, sizeof(r.field), "%s", jsonx_str(data, "field", ""));
	snprintf(r.hint, sizeof(r.hint), "%s", jsonx_str(data, "hint", ""));
	return r;
}

struct refusal call_refused(struct client *c, const char *kind, const char *method,
                            const char *params, ...)
{
	struct refusal r;
	json_t *reply;
	va_list args;

	va_start(args, params);
	reply = call_raw(c, method, pack(method, params, args), NULL, 0);
	va_end(args);
	r = refusal_of(reply);
	cr_assert_str_eq(r.kind, kind, "%s: %s is due, not %s", method, kind, told(reply));
	cr_assert(r.message[0], "%s: an error without a message", method);
	json_decref(reply);
	return r;
}

json_t *member(const json_t *value, const char *path)
{
	while (value && *path) {
		char key[64];
		size_t n = strcspn(path, ".");

		snprintf(key, sizeof(key), "%.*s", (int)n, path);
		value = json_is_array(value) ? json_array_get(value, (size_t)atoi(key))
		                             : json_object_get(value, key);
		path += n + (path[n] == '.');
	}
	return (json_t *)value;
}

const char *member_str(const json_t *value, const char *path)
{
	const char *text = json_string_value(member(value, path));

	cr_assert(text, "no text '%s' in %s", path, told(value));
	return text;
}

json_int_t member_int(const json_t *value, const char *path)
{
	const json_t *number = member(value, path);

	cr_assert(json_is_integer(number), "no integer '%s' in %s", path, told(value));
	return json_integer_value(number);
}

static bool event_fits(const json_t *event, const char *type, const char *vm, const char *key,
                       const char *value)
{
	const json_t *data = json_object_get(event, "data");

	if (strcmp(jsonx_str(event, "type", ""), type) != 0)
		return false;
	if (vm && strcmp(jsonx_str(event, "vm", ""), vm) != 0)
		return false;
	return !key || strcmp(jsonx_str(data, key, ""), value) == 0;
}

json_t *event_wait(struct client *c, const char *type, const char *vm, const char *key,
                   const char *value, int timeout_ms)
{
	uint64_t deadline = now_monotonic_us() + (uint64_t)patient(timeout_ms) * 1000;
	json_t *message;
	int got;

	for (;;) {
		/* The event may have come together with the reply before it. */
		while ((message = take_line(c))) {
			cr_assert(json_object_get(message, "method"),
			          "a reply nobody asked for: %s", told(message));
			json_array_append(c->events, json_object_get(message, "params"));
			json_decref(message);
		}
		while (json_array_size(c->events) > 0) {
			json_t *event = json_incref(json_array_get(c->events, 0));

			json_array_remove(c->events, 0);
			if (event_fits(event, type, vm, key, value))
				return event;
			json_decref(event);
		}
		got = receive(c, deadline);
		cr_assert_eq(got, 1, "no event %s %s %s=%s: %s", type, vm ? vm : "", key ? key : "",
		             value ? value : "", got == 0 ? "connection closed" : "time is up");
	}
}
