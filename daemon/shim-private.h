/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* What the files of the shim client share: shim.c (connection, requests), shim-start.c,
 * shim-record.c. */
#include <ev.h>
#include <jansson.h>

#include "common/list.h"
#include "daemon/fiber.h"
#include "daemon/shim.h"

struct shim {
	unsigned refs; /* the owner, and the fiber that deals with a lost connection */
	bool freed;    /* by the owner: no callbacks any more */
	bool released;
	bool hello_done;
	bool starting; /* what hello tells becomes callbacks too */
	char *runtime_dir, *uuid;
	const struct shim_ops *ops;
	void *userdata;
	int sock, qmp_fd, pidfd;
	ev_io io;
	ev_io qmp_io;    /* of shim_start() */
	ev_timer replay; /* gives out what was held */
	json_t *held;    /* notifications that came before the owner had s; NULL: none are held */
	json_int_t next_id;
	struct list pending;    /* requests under way */
	struct waitq exit_wait; /* of shim_start() */
	struct shim_exit *exit;
	bool exit_told;
	pid_t pid;
	uint64_t start_time, console_bytes;
	uint64_t ready_us[_SHIM_READY_MAX];
};

/* shim.c */
int shim_new(const char *runtime_dir, const char *uuid, const struct shim_ops *ops, void *userdata,
             struct shim **ret);
/* Connects and says hello. 0 or negative errno with err. Waits. */
int shim_connect(struct shim *s, int64_t timeout_ms, struct vmd_error *err);
/*
 * req is stolen. *ret_reply and *ret_fd (either may be NULL) belong to the caller; no descriptor is
 * -EBADF. The owner may have freed s when this returns.
 */
int shim_request(struct shim *s, json_t *req, int64_t timeout_ms, json_t **ret_reply, int *ret_fd,
                 struct vmd_error *err);
/* The last one frees. */
void shim_unref(struct shim *s);
/* From now on callbacks come, those held back first. */
void shim_publish(struct shim *s);

/* shim-record.c */
int shim_parse_exit(const json_t *v, struct shim_exit *ret); /* 0 or -EBADMSG */
/* The identity record: is the engine it names still this very process? */
bool shim_engine_lives(const char *runtime_dir);
