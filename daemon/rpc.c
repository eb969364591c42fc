/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From a message to its calls. Reads are answered on the spot with nothing allocated but the parsed
 * JSON and the reply; whatever may wait goes to rpc-call.c.
 */
#include "config.h"

#include "daemon/rpc.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/jsonx.h"
#include "common/log.h"
#include "daemon/rpc-private.h"
#include "daemon/vmd.h"

/* One call of a message, while it is looked at. */
struct request {
	const char *method;
	json_t *params;
	const char *id; /* JSON text, NULL for a notification */
};

bool rpc_find_guest(struct rpc *rpc, const char *reference, struct rpc_guest *ret)
{
	return rpc->find_guest && rpc->find_guest(rpc->vmd, reference, ret);
}

const struct schema *rpc_schema(const struct rpc *rpc, const char *name)
{
	return contract_schema(rpc->contract, name);
}

struct peers *rpc_peers(struct rpc *rpc)
{
	return rpc->peers;
}

unsigned rpc_changes_in_flight(const struct rpc *rpc)
{
	return rpc->n_changes;
}

/* --- the table --- */

static int compare_name(const void *key, const void *entry)
{
	return strcmp(key, ((const struct rpc_method *)entry)->method->name);
}

static int compare_methods(const void *a, const void *b)
{
	return compare_name(((const struct rpc_method *)a)->method->name, b);
}

static const struct rpc_method *find_method(const struct rpc *rpc, const char *name)
{
	return bsearch(name, rpc->methods, rpc->n_methods, sizeof(rpc->methods[0]), compare_name);
}

static int check_method(const struct method *m, const struct contract_method *c,
                        struct vmd_error *err)
{
	if (!c)
		return error_set(err, ERROR_INVALID, "method '%s' is not in the contract", m->name);
	if ((int)c->role != (int)m->role)
		return error_set(err, ERROR_INVALID, "method '%s': the contract has another role",
		                 m->name);
	if (!(c->flags & CONTRACT_JOB) != !(m->flags & METHOD_JOB) ||
	    !(c->flags & CONTRACT_CHANGE) != !(m->flags & METHOD_CHANGE))
		return error_set(err, ERROR_INVALID,
		                 "method '%s' is of another kind in the contract", m->name);
	return 0;
}

static int bind_methods(struct rpc *rpc, const struct method *const *tables, size_t n,
                        struct vmd_error *err)
{
	size_t count = 0, i = 0;
	int r;

	for (size_t t = 0; t < n; t++)
		for (const struct method *m = tables[t]; m->name; m++)
			count++;
	rpc->methods = calloc(count + 1, sizeof(rpc->methods[0]));
	if (!rpc->methods)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	for (size_t t = 0; t < n; t++)
		for (const struct method *m = tables[t]; m->name; m++, i++) {
			rpc->methods[i].method = m;
			rpc->methods[i].contract = contract_method(rpc->contract, m->name);
			r = check_method(m, rpc->methods[i].contract, err);
			if (r < 0)
				return r;
		}
	rpc->n_methods = count;
	qsort(rpc->methods, count, sizeof(rpc->methods[0]), compare_methods);
	for (i = 1; i < count; i++)
		if (compare_methods(&rpc->methods[i - 1], &rpc->methods[i]) == 0)
			return error_set(err, ERROR_INVALID, "method '%s' has two handlers",
			                 rpc->methods[i].method->name);
	return 0;
}

static int check_complete(const struct rpc *rpc, bool strict, struct vmd_error *err)
{
	const struct contract_method *c;

	for (size_t i = 0; (c = contract_method_at(rpc->contract, i)); i++) {
		if (find_method(rpc, c->name))
			continue;
		if (strict)
			return error_set(err, ERROR_INVALID, "method '%s' has no handler", c->name);
		log_debug("Method '%s' has no handler", c->name);
	}
	return 0;
}

int rpc_new(struct vmd *vmd, const struct method *const *tables, size_t n, bool strict,
            rpc_guest_fn find_guest, struct vmd_error *err)
{
	struct rpc *rpc = calloc(1, sizeof(*rpc));
	int r;

	if (!rpc)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	rpc->vmd = vmd;
	rpc->find_guest = find_guest;
	list_init(&rpc->calls);
	r = contract_open(&rpc->contract, err);
	if (r == 0)
		r = bind_methods(rpc, tables, n, err);
	if (r == 0)
		r = check_complete(rpc, strict, err);
	if (r == 0 && peers_new(vmd, &rpc->peers) < 0)
		r = error_set(err, ERROR_NO_SPACE, "out of memory");
	if (r < 0) {
		contract_close(rpc->contract);
		free(rpc->methods);
		free(rpc);
		return r;
	}
	vmd->rpc = rpc;
	return 0;
}

void rpc_free(struct rpc *rpc)
{
	if (!rpc)
		return;
	peers_free(rpc->peers);
	contract_close(rpc->contract);
	key_table_free(rpc->vmd->keys);
	rpc->vmd->keys = NULL;
	rpc->vmd->rpc = NULL;
	strbuf_deinit(&rpc->id);
	strbuf_deinit(&rpc->text);
	free(rpc->methods);
	free(rpc);
}

/* --- one request --- */

/* The id as JSON text in rpc->id. -EINVAL: of a wrong type. */
static int read_id(struct rpc *rpc, const json_t *id, const char **ret)
{
	struct strbuf *out = &rpc->id;

	*ret = NULL;
	if (!id)
		return 0;
	out->len = 0;
	if (json_is_integer(id))
		strbuf_printf(out, "%" JSON_INTEGER_FORMAT, json_integer_value(id));
	else if (json_is_string(id) && json_string_length(id) <= RPC_MAX_ID)
		strbuf_append_json(out, json_string_value(id));
	else if (json_is_null(id))
		strbuf_append_str(out, "null");
	else
		return -EINVAL;
	if (strbuf_failed(out)) {
		strbuf_deinit(out);
		return -EINVAL;
	}
	*ret = out->data;
	return 0;
}

static int read_request(struct rpc *rpc, json_t *value, struct request *ret, struct vmd_error *err)
{
	const char *version;

	*ret = (struct request){ .id = "null" };
	if (!json_is_object(value))
		return error_set(err, ERROR_INVALID_REQUEST, "a request is an object");
	if (read_id(rpc, json_object_get(value, "id"), &ret->id) < 0) {
		ret->id = "null";
		return error_set(err, ERROR_INVALID_REQUEST,
		                 "an id is an integer or a string of at most %d bytes", RPC_MAX_ID);
	}
	version = json_string_value(json_object_get(value, "jsonrpc"));
	ret->method = json_string_value(json_object_get(value, "method"));
	ret->params = json_object_get(value, "params");
	if (version && strcmp(version, "2.0") == 0 && ret->method &&
	    (!ret->params || json_is_object(ret->params)))
		return 0;
	if (!ret->id)
		ret->id = "null"; /* what is no request is no notification either */
	if (!version || strcmp(version, "2.0") != 0)
		return error_set(err, ERROR_INVALID_REQUEST, "'jsonrpc' has to be \"2.0\"");
	if (!ret->method)
		return error_set(err, ERROR_INVALID_REQUEST, "'method' has to be a string");
	if (json_is_array(ret->params))
		return error_set_field(err, "params", "parameters go by name, in an object");
	return error_set(err, ERROR_INVALID_REQUEST, "'params' has to be an object");
}

static int no_method(const struct rpc *rpc, const char *name, struct vmd_error *err)
{
	const char *near = contract_nearest(rpc->contract, name);
	int r = error_set(err, ERROR_METHOD_NOT_FOUND, "there is no method '%.64s'", name);

	if (near)
		error_hint(err, "did you mean '%s'?", near);
	else
		error_hint(err, "rpc.discover lists the methods there are");
	return r;
}

static int check_call(const struct rpc_method *m, const struct peer *p, const json_t *params,
                      struct vmd_error *err)
{
	if (p->who.role < m->method->role) {
		(void)error_set(err, ERROR_DENIED, "'%s' needs the role %s, you have %s",
		                m->method->name, role_name(m->method->role),
		                role_name(p->who.role));
		error_hint(err, "the roles go by the groups in vmd.conf, and by the socket");
		return -EACCES;
	}
	return schema_check(m->contract->params, params, err);
}

/* Runs a read on the spot. */
static void read_now(struct peer *p, struct exchange *ex, const struct rpc_method *m,
                     const struct request *q, const int *fds, size_t n_fds)
{
	struct call call = { .vmd = p->vmd,
		             .method = m->method->name,
		             .params = q->params,
		             .role = p->who.role,
		             .uid = p->who.uid,
		             .fds = fds,
		             .n_fds = n_fds,
		             .peer = p };
	struct vmd_error err = VMD_ERROR_INIT;
	int r;

	memcpy(call.actor, p->actor, sizeof(call.actor));
	r = m->method->handler(&call, &err);
	if (r < 0 && err.kind == ERROR_NONE)
		(void)error_set_errno(&err, -r, "'%s' failed", call.method);
	if (q->id && r < 0)
		rpc_reply_error(p, ex, q->id, &err, jsonx_str(q->params, "vm", NULL));
	else if (q->id)
		rpc_reply_result(p, ex, q->id, &call);
	rpc_call_release(&call);
}

static void cancel_request(struct rpc *rpc, struct peer *p, struct exchange *ex,
                           const struct request *q)
{
	cleanup_free char *own = q->id ? strdup(q->id) : NULL;
	const char *other;

	if (read_id(rpc, json_object_get(q->params, "id"), &other) == 0 && other)
		rpc_call_cancel(rpc, p, other);
	if (own)
		rpc_reply_json(p, ex, own, NULL);
}

/* fds: those of the message; ex: NULL for a message of one call that may be a read. */
static void handle_request(struct rpc *rpc, struct peer *p, struct exchange *ex, json_t *value,
                           int *fds, size_t *n_fds)
{
	cleanup_json json_t *empty = NULL;
	struct vmd_error err = VMD_ERROR_INIT;
	const struct rpc_method *m = NULL;
	struct exchange *own = NULL;
	struct request q;
	int r = read_request(rpc, value, &q, &err);

	if (r == 0 && !q.params) {
		q.params = empty = json_object();
		r = empty ? 0 : error_set(&err, ERROR_NO_SPACE, "out of memory");
	}
	if (r == 0 && strcmp(q.method, "$/cancelRequest") == 0) {
		cancel_request(rpc, p, ex, &q);
		return;
	}
	if (r == 0) {
		m = find_method(rpc, q.method);
		r = m ? check_call(m, p, q.params, &err) : no_method(rpc, q.method, &err);
	}
	if (r < 0) {
		if (q.id)
			rpc_reply_error(p, ex, q.id, &err, NULL);
		return;
	}
	if (!(m->method->flags & (METHOD_FIBER | METHOD_JOB | METHOD_CHANGE))) {
		read_now(p, ex, m, &q, ex ? ex->fds : fds, ex ? ex->n_fds : *n_fds);
		return;
	}
	if (!ex)
		ex = own = exchange_new(p, false, fds, n_fds);
	if (ex)
		rpc_call_start(rpc, p, ex, m, q.params, q.id);
	else
		p->out.failed = true;
	exchange_unref(own);
}

/* --- one message --- */

static void handle_batch(struct rpc *rpc, struct peer *p, json_t *root, int *fds, size_t *n_fds)
{
	struct vmd_error err = VMD_ERROR_INIT;
	struct exchange *ex;
	json_t *value;
	size_t i;

	if (json_array_size(root) == 0)
		(void)error_set(&err, ERROR_INVALID_REQUEST, "a batch holds at least one call");
	else if (json_array_size(root) > p->vmd->config.max_batch)
		(void)error_set(&err, ERROR_INVALID_REQUEST, "a batch may hold %u calls, not %zu",
		                p->vmd->config.max_batch, json_array_size(root));
	if (err.kind != ERROR_NONE) {
		rpc_reply_error(p, NULL, "null", &err, NULL);
		return;
	}
	ex = exchange_new(p, true, fds, n_fds);
	if (!ex) {
		p->out.failed = true;
		return;
	}
	json_array_foreach(root, i, value)
		handle_request(rpc, p, ex, value, fds, n_fds);
	exchange_unref(ex);
}

/* JSON that is no object and no array is well-formed, but no request. */
static void not_a_request(struct peer *p, const char *text, size_t len, struct vmd_error *err)
{
	bool scalar = len && text[0] != '{' && text[0] != '[';
	cleanup_json json_t *value = scalar ? json_loadb(text, len, JSON_DECODE_ANY, NULL) : NULL;

	if (value) {
		*err = (struct vmd_error)VMD_ERROR_INIT;
		(void)error_set(err, ERROR_INVALID_REQUEST, "a request is an object");
	}
	rpc_reply_error(p, NULL, "null", err, NULL);
}

void rpc_message(struct peer *p, const char *text, size_t len, int *fds, size_t *n_fds)
{
	struct vmd_error err = VMD_ERROR_INIT;
	struct rpc *rpc = p->vmd->rpc;
	size_t had = p->out.bytes;
	unsigned calls = p->n_calls;
	json_t *root = jsonx_parse(text, len, RPC_MAX_DEPTH, &err);

	if (!root)
		not_a_request(p, text, len, &err);
	else if (json_is_array(root))
		handle_batch(rpc, p, root, fds, n_fds);
	else
		handle_request(rpc, p, NULL, root, fds, n_fds);
	json_decref(root);
	/* HTTP wants an answer also where JSON-RPC has none. */
	if (peer_is_http(p) && p->out.bytes == had && p->n_calls == calls && !p->closed)
		peer_no_content(p);
}
