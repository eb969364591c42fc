/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* Between fiber.c, work.c and run-program.c. */
#include <ev.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FIBER_WAIT_FDS_MAX 4

struct fiber_fd {
	int fd;     /* negative: ignored */
	int events; /* EV_READ, EV_WRITE */
	bool ready; /* set by fiber_wait_fds */
};

/* As fiber_wait_fd for several descriptors; returns when at least one is ready. */
int fiber_wait_fds(struct fiber_fd *fds, size_t n, int64_t timeout_ms);

/* The worker pool; called by fiber_init and fiber_deinit. */
void work_init(struct ev_loop *loop);
void work_deinit(void);
