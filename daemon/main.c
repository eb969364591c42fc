/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "common/log.h"
#include "daemon/fiber.h"
#include "daemon/options.h"
#include "daemon/reload.h"
#include "daemon/vmd.h"

static void on_stop(struct ev_loop *loop, ev_signal *w, int events)
{
	(void)loop;
	(void)events;
	vmd_stop(w->data);
}

static void on_reload(struct ev_loop *loop, ev_signal *w, int events)
{
	struct vmd_error err = VMD_ERROR_INIT;

	(void)loop;
	(void)events;
	if (vmd_reload(w->data, false, &err) < 0)
		log_error("Configuration refused, the old one stays: %s", err.message);
}

static int run(struct vmd *vmd)
{
	static const struct {
		int signal;
		void (*handler)(struct ev_loop *, ev_signal *, int);
	} signals[] = { { SIGTERM, on_stop }, { SIGINT, on_stop }, { SIGHUP, on_reload } };
	ev_signal watchers[ARRAY_SIZE(signals)];
	sigset_t held;

	(void)sigemptyset(&held);
	for (size_t i = 0; i < ARRAY_SIZE(signals); i++) {
		ev_signal_init(&watchers[i], signals[i].handler, signals[i].signal);
		watchers[i].data = vmd;
		ev_signal_start(vmd->loop, &watchers[i]);
		(void)sigaddset(&held, signals[i].signal);
	}
	notify_start(&vmd->notify, vmd->loop);
	if (fiber_start("start", vmd_start, vmd) < 0)
		return 1;
	/* When nothing has to be waited for, all of the start is over by now. */
	if (!vmd->ended)
		ev_run(vmd->loop, 0);
	notify_stop(&vmd->notify);
	/* One that is repeated while the state is written and closed does not cut that short. */
	(void)sigprocmask(SIG_BLOCK, &held, NULL);
	for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
		ev_signal_stop(vmd->loop, &watchers[i]);
	return vmd->exit_code;
}

int main(int argc, char **argv)
{
	struct vmd_error err = VMD_ERROR_INIT;
	struct vmd vmd = { .loop = NULL };
	int r;

	(void)umask(077);
	(void)signal(SIGPIPE, SIG_IGN);
	log_init("vmd");
	config_defaults(&vmd.config);
	r = options_parse(argc, argv, &vmd.config);
	if (r != 0)
		return r < 0 ? 64 : 0;
	r = config_read(&vmd.config, &err);
	if (r == 0) {
		log_set_level(vmd.config.log_level);
		r = vmd_open(&vmd, &err);
	}
	if (r < 0)
		log_error("%s%s%s", err.message, err.hint[0] ? "; " : "", err.hint);
	else
		r = run(&vmd);
	vmd_close(&vmd);
	return r == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
