/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/plan.h"

#define FIRST_FD 3

int plan_add_fd(struct plan *plan, enum plan_fd_kind kind, size_t index, unsigned queue)
{
	int number = FIRST_FD + (int)plan->n_fds;

	if (plan->n_fds == LAUNCH_MAX_FDS)
		return -E2BIG;
	plan->fds[plan->n_fds++] = (struct plan_fd){ kind, index, queue, number };
	return number;
}

void plan_deinit(struct plan *plan)
{
	json_decref(plan->argv);
	json_decref(plan->config);
	*plan = (struct plan){ .argv = NULL };
}
