/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "api/contract.h"

#include <stdlib.h>
#include <string.h>

#include "common/jsonx.h"
#include "common/parse.h"

/* clang-format off */
__asm__(".section .rodata\n"
	".balign 16\n"
	".globl contract_text\n"
	".type contract_text, @object\n"
	"contract_text:\n"
	".incbin \"" VMD_CONTRACT_FILE "\"\n"
	".Lcontract_end:\n"
	".byte 0\n"
	".size contract_text, . - contract_text\n"
	".balign 8\n"
	".globl contract_len\n"
	".type contract_len, @object\n"
	"contract_len:\n"
	".dc.a .Lcontract_end - contract_text\n"
	".size contract_len, . - contract_len\n"
	".previous\n");
/* clang-format on */

struct contract {
	struct schema_set *schemas;
	struct contract_method *methods; /* in name order */
	size_t n_methods;
};

/* The parameters with each {"$ref": "#/components/contentDescriptors/X"} replaced by what it names.
 * NULL with err. */
static json_t *resolve_params(const json_t *document, const json_t *method, struct vmd_error *err)
{
	static const char prefix[] = "#/components/contentDescriptors/";
	const json_t *known =
		json_object_get(json_object_get(document, "components"), "contentDescriptors");
	cleanup_json json_t *whole = json_array();
	json_t *param;
	size_t i;

	json_array_foreach(json_object_get(method, "params"), i, param) {
		const char *ref = json_string_value(json_object_get(param, "$ref"));

		if (ref && strncmp(ref, prefix, strlen(prefix)) == 0)
			param = json_object_get(known, ref + strlen(prefix));
		else if (ref)
			param = NULL;
		if (!param) {
			(void)error_set(err, ERROR_INVALID, "'%s' leads nowhere", ref);
			return NULL;
		}
		if (json_array_append(whole, param) < 0) {
			(void)error_set(err, ERROR_NO_SPACE, "out of memory");
			return NULL;
		}
	}
	return TAKE_PTR(whole);
}

static int role_of(const json_t *method, enum contract_role *ret, struct vmd_error *err)
{
	static const char *const roles[] = { "viewer", "operator", "admin" };
	const char *word = jsonx_str(method, "x-role", "");

	for (size_t i = 0; i < ARRAY_SIZE(roles); i++) {
		if (strcmp(roles[i], word) != 0)
			continue;
		*ret = (enum contract_role)i;
		return 0;
	}
	return error_set(err, ERROR_INVALID, "x-role '%s' is no role", word);
}

static int add_method(struct contract *c, const json_t *document, const json_t *method,
                      struct vmd_error *err)
{
	struct contract_method *m = &c->methods[c->n_methods];
	cleanup_json json_t *params = resolve_params(document, method, err);
	int r;

	if (!params)
		return -EINVAL;
	m->name = schema_set_strdup(c->schemas, jsonx_str(method, "name", ""));
	if (!m->name)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	m->flags = (jsonx_bool(method, "x-job", false) ? CONTRACT_JOB : 0) |
	           (jsonx_bool(method, "x-change", false) ? CONTRACT_CHANGE : 0) |
	           (jsonx_bool(method, "x-own-timeout", false) ? CONTRACT_OWN_TIMEOUT : 0);
	r = role_of(method, &m->role, err);
	if (r == 0)
		r = schema_compile_params(c->schemas, params, &m->params, err);
	if (r == 0)
		r = schema_compile(c->schemas,
		                   json_object_get(json_object_get(method, "result"), "schema"),
		                   &m->result, err);
	if (r < 0)
		error_prefix(err, "%s", m->name);
	else
		c->n_methods++;
	return r;
}

static int by_name(const void *a, const void *b)
{
	const struct contract_method *x = a, *y = b;

	return strcmp(x->name, y->name);
}

static int compile_document(struct contract *c, const json_t *document, struct vmd_error *err)
{
	const json_t *methods = json_object_get(document, "methods"), *method;
	size_t i;
	int r;

	r = schema_set_new(json_object_get(json_object_get(document, "components"), "schemas"),
	                   &c->schemas, err);
	if (r < 0)
		return r;
	c->methods = calloc(json_array_size(methods) + 1, sizeof(*c->methods));
	if (!c->methods)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	json_array_foreach(methods, i, method) {
		r = add_method(c, document, method, err);
		if (r < 0)
			return r;
	}
	qsort(c->methods, c->n_methods, sizeof(*c->methods), by_name);
	return 0;
}

int contract_open_text(const char *text, size_t len, struct contract **ret, struct vmd_error *err)
{
	cleanup_contract struct contract *c = calloc(1, sizeof(*c));
	json_t *document;
	int r;

	if (!c)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	document = jsonx_parse(text, len, 64, err);
	if (!document)
		return -EINVAL;
	r = compile_document(c, document, err);
	json_decref(document);
	if (r == 0)
		r = schema_set_seal(c->schemas, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(c);
	return 0;
}

int contract_open(struct contract **ret, struct vmd_error *err)
{
	return contract_open_text(contract_text, contract_len, ret, err);
}

struct contract *contract_close(struct contract *c)
{
	if (!c)
		return NULL;
	schema_set_free(c->schemas);
	free(c->methods);
	free(c);
	return NULL;
}

const struct contract_method *contract_method(const struct contract *c, const char *name)
{
	struct contract_method key = { .name = name };

	return bsearch(&key, c->methods, c->n_methods, sizeof(key), by_name);
}

const struct contract_method *contract_method_at(const struct contract *c, size_t index)
{
	return index < c->n_methods ? &c->methods[index] : NULL;
}

const char *contract_nearest(const struct contract *c, const char *name)
{
	const char *best = NULL;
	unsigned distance = 4;

	for (size_t i = 0; i < c->n_methods; i++) {
		unsigned d = word_distance(name, c->methods[i].name, 3);

		if (d >= distance)
			continue;
		distance = d;
		best = c->methods[i].name;
	}
	return best;
}

const struct schema *contract_schema(const struct contract *c, const char *name)
{
	return schema_find(c->schemas, name);
}

void contract_compact(struct strbuf *out)
{
	const char *p = contract_text, *end = contract_text + contract_len;

	while (p < end) {
		const char *start = p;

		if (strchr(" \t\n\r", *p)) {
			p++;
			continue;
		}
		if (*p == '"') {
			for (p++; *p != '"'; p++)
				if (*p == '\\')
					p++;
			p++;
		} else {
			p += strcspn(p, " \t\n\r\"");
		}
		strbuf_append(out, start, (size_t)(p - start));
	}
}
