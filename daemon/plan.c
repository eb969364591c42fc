/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/plan.h"

#define FIRST_FD 3

/* Each process counts its own. */
static int add(struct plan *plan, struct plan_fd fd)
{
	fd.number = FIRST_FD;
	if (plan->n_fds == LAUNCH_MAX_FDS)
		return -E2BIG;
	for (size_t i = 0; i < plan->n_fds; i++)
		fd.number += plan->fds[i].storage == fd.storage;
	plan->fds[plan->n_fds++] = fd;
	return fd.number;
}

int plan_add_fd(struct plan *plan, enum plan_fd_kind kind, size_t index, unsigned queue)
{
	return add(plan, (struct plan_fd){ .kind = kind, .index = index, .queue = queue });
}

int plan_add_storage_fd(struct plan *plan, enum plan_fd_kind kind, size_t index)
{
	return add(plan, (struct plan_fd){ .kind = kind, .index = index, .storage = true });
}

void plan_deinit(struct plan *plan)
{
	json_decref(plan->argv);
	json_decref(plan->config);
	json_decref(plan->storage_argv);
	*plan = (struct plan){ .argv = NULL };
}
