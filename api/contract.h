/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * The contract, api/vmd.openrpc.json, as the programs hold it: its text, and its methods compiled
 * for checking. Read-only once opened; no function here blocks.
 */
#include <stddef.h>

#include "common/error.h"
#include "common/macros.h"
#include "common/schema.h"
#include "common/strbuf.h"

/* The file as it is, NUL-terminated. */
extern const char contract_text[];
extern const size_t contract_len;

/* Least role, as numbers in the order of power. */
enum contract_role {
	CONTRACT_VIEWER,
	CONTRACT_OPERATOR,
	CONTRACT_ADMIN
};

enum contract_flags {
	CONTRACT_JOB = 1 << 0,         /* a job; takes wait */
	CONTRACT_CHANGE = 1 << 1,      /* takes dry_run and client_key, and if_generation with vm */
	CONTRACT_OWN_TIMEOUT = 1 << 2, /* the handler itself heeds timeout_ms, the dispatcher not */
};

struct contract_method {
	const char *name; /* "vm.get" */
	enum contract_role role;
	unsigned flags;              /* enum contract_flags */
	const struct schema *params; /* of the params object; absent params are {} */
	const struct schema *result; /* of the result with "wait": true */
};

struct contract;

/*
 * Compiles the embedded contract. -ENOMEM, or -EINVAL with err when the document itself is wrong
 * (a $ref that leads nowhere, a keyword that is not enforced), which a test rules out.
 */
int contract_open(struct contract **ret, struct vmd_error *err) MUST_CHECK;
/* The same for any OpenRPC text, for tests. */
int contract_open_text(const char *text, size_t len, struct contract **ret,
                       struct vmd_error *err) MUST_CHECK;
struct contract *contract_close(struct contract *c);

/* A method by name, or NULL. */
const struct contract_method *contract_method(const struct contract *c, const char *name);
/* Methods in name order, from 0; NULL past the last. */
const struct contract_method *contract_method_at(const struct contract *c, size_t index);
/* The name nearest to a mistyped one, or NULL when none is near. */
const char *contract_nearest(const struct contract *c, const char *name);
/* components/schemas by name ("VmDefinition"), or NULL. */
const struct schema *contract_schema(const struct contract *c, const char *name);

/* Appends the document as one line without white space between tokens (for rpc.discover). */
void contract_compact(struct strbuf *out);

DEFINE_CLEANUP(struct contract *, contract_close);
#define cleanup_contract cleanup_with(contract_close)
