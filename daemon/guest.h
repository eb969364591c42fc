/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/*
 * A guest: identity, definition, state, and while it is live its run. The definition is kept as
 * compact JSON text, parsed where an operation needs it. All functions: loop thread.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"
#include "common/strbuf.h"
#include "daemon/fiber.h"
#include "daemon/guest-fsm.h"

struct vmd;
struct shim;
struct shim_exit;
struct qmp;
struct guest_events;
struct job;
struct store_txn;
struct engine_choice;

/* Readiness as the console tells it; microseconds since the engine started, 0: not seen yet. */
enum {
	READY_KERNEL,
	READY_INIT,
	READY_LOGIN,
	_READY_MAX
};
extern const char *const ready_names[_READY_MAX];

/* A live (or just ended) engine process. */
struct guest_run {
	struct shim *shim;
	struct qmp *qmp;
	struct guest_events *events; /* owned; NULL before the first one */
	pid_t pid;
	uint64_t started_us; /* wall clock */
	uint64_t ready_us[_READY_MAX];
	char *definition; /* the text it runs with; differs from the guest's after an update */
	char shutdown_reason[32]; /* from QMP SHUTDOWN: "guest-shutdown", "guest-reset", ... or ""
	                           */
	char cause_hint[32]; /* what vmd itself asked for: "stop", "kill", "suspend", "restore" */
	struct shim_exit *exit; /* how it ended, until that is settled */
	bool panicked, watchdog_fired;
	bool exited; /* the process is gone; its end is being settled */
	bool qmp_closed;
	bool ping_in_flight, recovering, looking; /* fibers that are at work on it */
	bool stopped;                             /* by QMP's last STOP or RESUME */
	bool attaching;                           /* no shim yet: it is asked again and again */
	bool ran_before_mute;  /* what an operation paused before the engine went mute runs on */
	bool unfinished_start; /* of the last daemon */
};

/* A start that is under way; durable with the state, so that the next daemon can finish it or take
 * it back. */
struct guest_start {
	enum guest_start_from {
		START_BOOT,
		START_SUSPENDED, /* from the suspend image */
		START_SNAPSHOT,  /* from a snapshot's memory */
	} from;
	bool paused;       /* leave it paused once it is up */
	bool may_have_run; /* its vCPUs may have run: what they came from is spent */
};

/*
 * Descriptors that came with a definition and stand for no path (tap devices). In the definition
 * {"fd": n} is the n-th of them. They live as long as the daemon: after a restart a start is
 * refused until vm.update gives them again.
 */
struct held_fds {
	int fds[8];
	size_t n;
};
void held_fds_close(struct held_fds *held);

struct guest {
	struct vmd *vmd;
	struct list link; /* registry order */
	char uuid[37], name[64];
	uid_t owner;
	char *definition;
	char *saved_definition; /* what the suspend image was made with; NULL: there is none */
	unsigned cpus;          /* both from the definition, for vm.list */
	uint64_t memory_bytes;
	uint64_t generation, created_us;
	enum guest_state state;
	enum guest_state settled_state; /* where a start or suspend that fails goes back to */
	char *cause;                    /* of the present state, may be NULL */
	uint64_t since_us;
	uint64_t last_event;      /* seq of the last state event */
	char engine[8], accel[8]; /* last choice, "" when none yet */
	char *engine_reason;
	char *exit_text; /* last exit record as JSON text, may be NULL */
	struct held_fds held;
	unsigned restarts;        /* in a row by the restart policy */
	bool restart_pending;     /* the back-off of the policy runs; survives a daemon restart */
	unsigned restart_plan;    /* counts plans: only the newest one's fiber acts */
	struct guest_start start; /* of the present or last start */
	char started_boot[37];    /* boot id of the host at its last start, or "" */
	bool want_running;        /* somebody wants it up: survives a daemon restart */
	bool deleted;             /* waiters that wake find it gone */
	struct fiber_mutex lock;  /* one change at a time, in order of arrival */
	struct waitq changed;     /* woken on every state or readiness change */
	struct job *job;          /* what holds the lock, for "busy" */
	struct guest_run *run;    /* NULL unless live */
	unsigned refs;            /* fibers and callbacks that hold the pointer */
};

struct registry;
int registry_new(struct registry **ret);
void registry_free(struct registry *r);
/* By name or uuid; NULL when there is none. */
struct guest *registry_find(struct registry *r, const char *name_or_uuid);
/* -EEXIST when the name or uuid is taken. */
int registry_add(struct registry *r, struct guest *g);
void registry_remove(struct registry *r, struct guest *g);
int registry_rename(struct registry *r, struct guest *g, const char *new_name);
/* Reserves a name for a create or rename that is being made durable. */
bool registry_reserve(struct registry *r, const char *name);
void registry_unreserve(struct registry *r, const char *name);
struct list *registry_list(struct registry *r);
size_t registry_count(const struct registry *r);
/* Something that vm.list shows has changed: its kept text is dropped. */
void registry_touch(struct registry *r);
/* The kept text of the plain vm.list, or NULL. */
const struct strbuf *registry_list_cache(const struct registry *r);
/* Keeps it; text is emptied. */
void registry_keep_list_cache(struct registry *r, struct strbuf *text);

/* A guest of the parsed definition (name and uuid inside). Owned by the caller until added. */
int guest_new(struct vmd *vmd, const json_t *definition, uid_t owner, struct guest **ret);
struct guest *guest_ref(struct guest *g);
void guest_unref(struct guest *g);
/* The store's record of it as JSON text for the caller to free. */
char *guest_record(const struct guest *g);
/* Rebuilds a guest from its record; it is not live yet (reconcile does that). */
int guest_from_record(struct vmd *vmd, const char *text, size_t len, struct guest **ret);
/* Keeps (or with NULL forgets) the definition that a suspend image belongs to; not durable by
 * itself. 0 or -ENOMEM. */
int guest_keep_saved(struct guest *g, const char *definition);
/* Replaces the definition (borrowed) and what is derived from it; not durable by itself. */
int guest_set_definition(struct guest *g, const json_t *definition);
/* New reference to the parsed definition. */
json_t *guest_definition(const struct guest *g);

/* vm.get's result as text. */
void guest_format(const struct guest *g, struct strbuf *out);
/* Its result as a value with only the named top-level fields (all of them when fields is NULL). */
json_t *guest_to_json(const struct guest *g, const json_t *fields);
/*
 * Names of the top-level members of definition (the guest's own, or what would become it) that wait
 * for the next start: not those that differ in nothing from what is in use, nor those that vmd
 * reads when it needs them. New reference, NULL without memory.
 */
json_t *guest_pending(const struct guest *g, const json_t *definition);
/* One entry of vm.list. */
void guest_format_brief(const struct guest *g, struct strbuf *out);

/* Puts the record and, with type, an event into txn. The number of the event, or 0. */
uint64_t guest_put(struct guest *g, struct store_txn *txn, const char *type, const char *actor,
                   json_t *data);

/*
 * The one way a state changes: looks the event up, sets state, cause and time, makes the record and
 * the vm.state event durable (waits; in memory it holds even when that fails), wakes waiters, logs.
 * -ESTALE with err (ERROR_WRONG_STATE) when the table refuses it.
 */
int guest_apply(struct guest *g, enum guest_event event, const char *cause, const char *actor,
                struct vmd_error *err);
/* Publishes an event about the guest that changes no record. */
void guest_publish(struct guest *g, const char *type, json_t *data);

/* "wrong_state" with the state and what to do, for verb. */
int guest_refuse(const struct guest *g, const char *verb, struct vmd_error *err);

/* Paths below the state and runtime directories; buf is the caller's. */
const char *guest_runtime_dir(const struct guest *g, char *buf, size_t len);
const char *guest_state_dir(const struct guest *g, char *buf, size_t len);
