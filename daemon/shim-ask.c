/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

/* What owners of a shim ask it, and what is known without asking. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "common/jsonx.h"
#include "common/procutil.h"
#include "daemon/shim-private.h"

#define REQUEST_TIMEOUT_MS 10000

static const char *const level_names[] = {
	[SHIM_READY_KERNEL] = "kernel",
	[SHIM_READY_INIT] = "init",
	[SHIM_READY_LOGIN] = "login",
};
static_assert(ARRAY_SIZE(level_names) == _SHIM_READY_MAX, "one name per level");

const char *shim_ready_name(enum shim_ready_level level)
{
	return level_names[level];
}

pid_t shim_pid(const struct shim *s)
{
	return s->pid;
}

uint64_t shim_start_time(const struct shim *s)
{
	return s->start_time;
}

int shim_pidfd(const struct shim *s)
{
	return s->pidfd;
}

int shim_take_qmp_fd(struct shim *s)
{
	return TAKE_FD(s->qmp_fd);
}

const struct shim_exit *shim_exited(const struct shim *s)
{
	return s->exit;
}

uint64_t shim_ready_us(const struct shim *s, enum shim_ready_level level)
{
	return s->ready_us[level];
}

uint64_t shim_console_bytes(const struct shim *s)
{
	return s->console_bytes;
}

int shim_signal(struct shim *s, int sig)
{
	return s->pidfd < 0 ? -ESRCH : proc_signal(s->pidfd, sig);
}

static int request_stream(struct shim *s, json_t *req, int *ret_fd, struct vmd_error *err)
{
	int r = shim_request(s, req, REQUEST_TIMEOUT_MS, NULL, ret_fd, err);

	if (r == 0 && *ret_fd < 0)
		r = error_set(err, ERROR_ENGINE_FAILED, "no stream came back from the shim");
	return r;
}

int shim_console(struct shim *s, bool readonly, bool replay, uint64_t since_us, int *ret_fd,
                 struct vmd_error *err)
{
	json_t *req = json_pack("{s:s,s:b,s:b,s:I}", "op", "console", "readonly", (int)readonly,
	                        "replay", (int)replay, "since_us", (json_int_t)since_us);

	return request_stream(s, req, ret_fd, err);
}

int shim_logs(struct shim *s, const struct shim_logs_opts *opts, int *ret_fd, struct vmd_error *err)
{
	json_t *req = json_pack("{s:s,s:I,s:I,s:b,s:b}", "op", "logs", "tail",
	                        (json_int_t)opts->tail, "since_us", (json_int_t)opts->since_us,
	                        "timestamps", (int)opts->timestamps, "follow", (int)opts->follow);

	return request_stream(s, req, ret_fd, err);
}

int shim_release(struct shim *s, struct vmd_error *err)
{
	int r;

	s->refs++;
	r = shim_request(s, json_pack("{s:s}", "op", "release"), REQUEST_TIMEOUT_MS, NULL, NULL,
	                 err);
	if (r == 0)
		s->released = true;
	shim_unref(s);
	return r;
}
