/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* vmd.conf(5): /etc/vmd/vmd.conf, then /etc/vmd/vmd.conf.d/ in name order, by libinih. */
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

struct config {
	/* From the command line; never reloaded. */
	bool session;
	char state_dir[256], runtime_dir[256], socket[256], config_file[256];
	/* [daemon] */
	int log_level;
	char viewer_group[64], operator_group[64], admin_group[64];
	/* [limits] */
	unsigned max_connections, max_connections_per_uid, max_batch, max_subscriptions;
	uint64_t max_message_bytes, max_output_bytes;
	unsigned message_timeout_ms; /* a begun message must be complete by then */
	/* [guest] */
	unsigned stop_timeout_ms, health_interval_ms, qmp_timeout_ms;
	uint64_t console_ring_bytes, console_log_bytes;
	unsigned console_log_files;
	/* [events] */
	uint64_t event_ring_bytes;
};

void config_defaults(struct config *c);
/*
 * Reads the file and its drop-ins over the defaults into *c (its command-line part is kept).
 * Refused whole, with file, line and key in err, when anything is unknown, malformed, or when a
 * file is writable by others or not owned by root or us. A missing main file is no error.
 */
int config_read(struct config *c, struct vmd_error *err);
