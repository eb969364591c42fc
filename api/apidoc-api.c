/* SPDX-License-Identifier: GPL-2.0-or-later */
/* vmd-api(7): the methods, errors, events and limits. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "api/apidoc.h"
#include "api/mdoc.h"
#include "common/jsonx.h"

/* Parameters that mean the same everywhere; told once, in CALLS. */
static const char *const common_params[] = { "DryRun", "IfGeneration", "ClientKey", "Wait",
	                                     "TimeoutMs" };

static bool is_common(const json_t *param)
{
	const char *name = apidoc_ref_name(param);

	for (size_t i = 0; name && i < ARRAY_SIZE(common_params); i++)
		if (strcmp(common_params[i], name) == 0)
			return true;
	return false;
}

static const json_t *whole_param(const json_t *document, const json_t *param)
{
	const char *ref = jsonx_str(param, "$ref", NULL);

	return ref ? apidoc_follow(document, ref) : param;
}

/* A parameter as a field: its own description stands before the schema's. */
static void write_param(const json_t *document, const json_t *param, FILE *out)
{
	cleanup_json json_t *schema = json_copy(json_object_get(param, "schema"));

	(void)json_object_set(schema, "description", json_object_get(param, "description"));
	apidoc_item(document, jsonx_str(param, "name", ""), schema,
	            jsonx_bool(param, "required", false), out);
}

static void write_calls(const json_t *document, FILE *out)
{
	const json_t *known = apidoc_follow(document, "#/components/contentDescriptors");

	mdoc_printf(out,
	            ".Sh CALLS\nParameters go by name.\nA member that is not known is refused, "
	            "with the nearest valid name as a hint.\nThese mean the same wherever a "
	            "method takes them:\n.Bl -tag -width Ds\n");
	for (size_t i = 0; i < ARRAY_SIZE(common_params); i++)
		write_param(document, json_object_get(known, common_params[i]), out);
	mdoc_printf(out, ".El\n.Pp\n"
	                 "Every method takes\n.Cm timeout_ms ;\nevery change takes\n.Cm dry_run\n"
	                 "and\n.Cm client_key ,\nand where it changes a guest that exists\n"
	                 ".Cm if_generation ;\nevery job takes\n.Cm wait .\n"
	                 "Changes of one guest are done in the order they came; different guests "
	                 "do not wait for each other.\n"
	                 "The reply to a change leaves when the change is durable on disk.\n");
}

static void write_framing(const json_t *document, FILE *out)
{
	const json_t *entry;
	size_t i;

	mdoc_printf(out, ".Sh FRAMING\nThe first bytes of a connection choose its framing.\n"
	                 ".Bl -bullet\n");
	json_array_foreach(json_object_get(document, "x-framing"), i, entry) {
		mdoc_printf(out, ".It\n");
		mdoc_text(out, json_string_value(entry));
	}
	mdoc_printf(out,
	            ".El\n.Pp\nDescriptors go along as SCM_RIGHTS, with the first byte of their "
	            "message or later; {\"fd\": n} in the message means the n-th of them.\n");
}

static void write_notifications(const json_t *document, FILE *out)
{
	const json_t *entry;
	size_t i;

	mdoc_printf(out, ".Sh NOTIFICATIONS\n.Bl -tag -width Ds\n");
	json_array_foreach(json_object_get(document, "x-notifications"), i, entry) {
		mdoc_printf(out, ".It Cm");
		mdoc_arg(out, jsonx_str(entry, "name", ""));
		mdoc_printf(out, " No \"(from the %s)\"\n", jsonx_str(entry, "from", ""));
		mdoc_text(out, jsonx_str(entry, "description", NULL));
	}
	mdoc_printf(out, ".El\n");
}

static void write_roles(const json_t *document, FILE *out)
{
	const char *key;
	json_t *text;

	mdoc_printf(out,
	            ".Sh ROLES\nThe caller's user and groups (SO_PEERCRED) give him a role, see\n"
	            ".Xr vmd.conf 5 ;\nthe read-only socket gives no more than viewer.\n"
	            "Each method names the least role it needs.\n"
	            ".Bl -tag -width operator\n");
	json_object_foreach(json_object_get(document, "x-roles"), key, text) {
		mdoc_printf(out, ".It Cm %s\n", key);
		mdoc_text(out, json_string_value(text));
	}
	mdoc_printf(out, ".El\n");
}

static void write_errors(const json_t *document, FILE *out)
{
	const char *key;
	json_t *e;

	mdoc_printf(out,
	            ".Sh ERROR CODES\nAn error has a\n.Cm code ,\na\n.Cm message\nfor people and\n"
	            ".Cm data :\n");
	apidoc_members(document, apidoc_follow(document, "#/components/schemas/ErrorData"), out);
	mdoc_printf(out, ".Pp\nThe words of\n.Cm data.kind\nand their codes:\n"
	                 ".Bl -tag -width method_not_found\n");
	json_object_foreach((json_t *)(uintptr_t)apidoc_follow(document, "#/components/errors"),
	                    key, e) {
		mdoc_printf(out, ".It Cm %s No \"(%lld)\"\n", key,
		            (long long)jsonx_int(e, "code", 0));
		mdoc_text(out, jsonx_str(e, "message", NULL));
	}
	mdoc_printf(out, ".El\n");
}

static void write_params(const json_t *document, const json_t *method, FILE *out)
{
	const json_t *param;
	const char *comma = "";
	bool open = false;
	size_t i;

	json_array_foreach(json_object_get(method, "params"), i, param) {
		if (is_common(param))
			continue;
		if (!open)
			mdoc_printf(out, ".Pp\nParameters:\n.Bl -tag -width Ds\n");
		open = true;
		write_param(document, whole_param(document, param), out);
	}
	if (open)
		mdoc_printf(out, ".El\n");
	mdoc_printf(out, ".Pp\n%s", open ? "Also:\n" : "Parameters:\n");
	json_array_foreach(json_object_get(method, "params"), i, param) {
		if (!is_common(param))
			continue;
		mdoc_printf(out, "%s\\fB%s\\fP", comma,
		            jsonx_str(whole_param(document, param), "name", ""));
		comma = ", ";
	}
	mdoc_printf(out, "%s\n", *comma ? "." : "none.");
}

/* The result: a named shape is told under SHAPES, anything else here. */
static void write_result(const json_t *document, const json_t *method, FILE *out)
{
	const json_t *schema = json_object_get(json_object_get(method, "result"), "schema");
	const json_t *branches = json_object_get(schema, "oneOf"), *branch;
	const char *name = apidoc_ref_name(schema);
	size_t i;

	mdoc_printf(out, ".Pp\nResult: ");
	if (name) {
		mdoc_printf(out, "%s.\n", name);
		return;
	}
	mdoc_text(out, jsonx_str(schema, "description", NULL));
	if (!branches)
		branches = json_object_get(schema, "anyOf");
	if (!branches)
		apidoc_members(document, schema, out);
	json_array_foreach(branches, i, branch) {
		mdoc_printf(out, ".Pp\n%s", i ? "Or " : "One form: ");
		name = apidoc_ref_name(branch);
		if (name) {
			mdoc_printf(out, "%s.\n", name);
			continue;
		}
		mdoc_text(out, jsonx_str(branch, "description", "an object."));
		apidoc_members(document, branch, out);
	}
}

static void write_method_errors(const json_t *method, FILE *out)
{
	const json_t *e;
	size_t i;

	mdoc_printf(out, ".Pp\nErrors: ");
	json_array_foreach(json_object_get(method, "errors"), i, e)
		mdoc_printf(out, "%s\\fB%s\\fP", i ? ", " : "", apidoc_ref_name(e));
	mdoc_printf(out, ".\n");
}

static void write_method_examples(const json_t *method, FILE *out)
{
	const json_t *example, *entry;
	size_t i, k;

	json_array_foreach(json_object_get(method, "examples"), i, example) {
		cleanup_json json_t *params = json_object(), *call = NULL, *reply = NULL;
		cleanup_free char *sent = NULL, *got = NULL, *text = NULL;

		json_array_foreach(json_object_get(example, "params"), k, entry)
			(void)json_object_set(params, jsonx_str(entry, "name", ""),
			                      json_object_get(entry, "value"));
		call = json_pack("{s:s, s:i, s:s, s:O}", "jsonrpc", "2.0", "id", 1, "method",
		                 jsonx_str(method, "name", ""), "params", params);
		reply = json_pack("{s:s, s:i, s:O}", "jsonrpc", "2.0", "id", 1, "result",
		                  json_object_get(json_object_get(example, "result"), "value"));
		sent = json_dumps(call, 0);
		got = json_dumps(reply, 0);
		if (!sent || !got || asprintf(&text, "%s\n%s\n", sent, got) < 0)
			continue;
		mdoc_printf(out, ".Pp\nExample, %s:\n", jsonx_str(example, "name", ""));
		mdoc_literal(out, text);
	}
}

static void write_methods(const json_t *document, FILE *out)
{
	const json_t *method;
	size_t i;

	mdoc_printf(out, ".Sh METHODS\n");
	json_array_foreach(json_object_get(document, "methods"), i, method) {
		mdoc_printf(out, ".Ss %s\n", jsonx_str(method, "name", ""));
		mdoc_printf(out, "%s.\n", jsonx_str(method, "summary", ""));
		mdoc_text(out, jsonx_str(method, "description", NULL));
		mdoc_printf(out, "Role: %s.\n", jsonx_str(method, "x-role", ""));
		if (jsonx_bool(method, "x-job", false))
			mdoc_printf(out, "A job.\n");
		if (jsonx_bool(method, "x-change", false))
			mdoc_printf(out, "A change.\n");
		write_params(document, method, out);
		write_result(document, method, out);
		write_method_errors(method, out);
		write_method_examples(method, out);
	}
}

static void write_shapes(const json_t *document, FILE *out)
{
	const json_t *schemas = apidoc_follow(document, "#/components/schemas");
	const char *key;
	json_t *schema;

	mdoc_printf(out,
	            ".Sh SHAPES\nObjects in parameters and results.\nResults may get new members; "
	            "programs ignore those they do not know.\nDefinitions and the words name, "
	            "size, path and fd are told in\n.Xr vmd-vm 5 .\n");
	json_object_foreach((json_t *)(uintptr_t)schemas, key, schema) {
		if (apidoc_in_vm_page(document, key) || strcmp(key, "ErrorData") == 0 ||
		    !json_object_get(schema, "properties"))
			continue;
		mdoc_printf(out, ".Ss %s\n", key);
		mdoc_text(out, jsonx_str(schema, "description", NULL));
		apidoc_members(document, schema, out);
	}
}

static void write_events(const json_t *document, FILE *out)
{
	const json_t *event;
	const char *key;
	json_t *text;
	size_t i;

	mdoc_printf(out, ".Sh EVENTS\nTypes of events and the members of their\n.Cm data :\n"
	                 ".Bl -tag -width Ds\n");
	json_array_foreach(json_object_get(document, "x-events"), i, event) {
		const json_t *data = json_object_get(event, "data");

		mdoc_printf(out, ".It Cm %s\n", jsonx_str(event, "type", ""));
		mdoc_text(out, jsonx_str(event, "description", NULL));
		json_object_foreach((json_t *)(uintptr_t)data, key, text)
			mdoc_printf(out, ".br\n\\fB%s\\fP: %s\n", key, json_string_value(text));
	}
	mdoc_printf(out, ".El\n");
}

static void write_limits(const json_t *document, FILE *out)
{
	const json_t *limit;
	size_t i;

	mdoc_printf(out, ".Sh LIMITS\nPast a limit is an error, never a silent drop;\n"
	                 ".Cm daemon.info\ntells those in force.\n.Bl -tag -width Ds\n");
	json_array_foreach(json_object_get(document, "x-limits"), i, limit) {
		mdoc_printf(out, ".It Cm %s\n", jsonx_str(limit, "name", ""));
		mdoc_text(out, jsonx_str(limit, "description", NULL));
		if (json_object_get(limit, "default"))
			mdoc_printf(out, "Default: %lld.\n",
			            (long long)jsonx_int(limit, "default", 0));
	}
	mdoc_printf(out, ".El\n");
}

void apidoc_page_api(const json_t *document, const char *engines UNUSED, FILE *out)
{
	const json_t *info = json_object_get(document, "info");

	mdoc_head(out, jsonx_str(info, "x-date", ""), "vmd-api", 7, "the API of vmd");
	mdoc_printf(out, ".Sh DESCRIPTION\n");
	mdoc_text(out, jsonx_str(info, "description", NULL));
	mdoc_printf(out, "The method\n.Cm rpc.discover\nreturns the document itself.\n");
	write_framing(document, out);
	write_calls(document, out);
	write_roles(document, out);
	write_errors(document, out);
	write_methods(document, out);
	write_shapes(document, out);
	write_notifications(document, out);
	write_events(document, out);
	write_limits(document, out);
	mdoc_printf(out, ".Sh EXAMPLES\n");
	mdoc_literal(out, "$ curl -s --unix-socket /run/vmd/vmd.sock http://vmd/ \\\n"
	                  "    -d '{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"vm.list\"}'\n"
	                  "$ vmctl call vm.get '{\"vm\": \"web\"}'\n");
	mdoc_printf(out,
	            ".Sh SEE ALSO\n.Xr vmctl 1 ,\n.Xr vmd-vm 5 ,\n.Xr vmd.conf 5 ,\n.Xr vmd 8\n");
}
