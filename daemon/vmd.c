/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/vmd.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fsutil.h"
#include "common/log.h"
#include "common/timeutil.h"
#include "daemon/boot.h"
#include "daemon/disk.h"
#include "daemon/event.h"
#include "daemon/fiber.h"
#include "daemon/guest-run.h"
#include "daemon/job.h"
#include "daemon/listener.h"
#include "daemon/options.h"
#include "daemon/reload.h"
#include "daemon/rpc.h"
#include "daemon/shim.h"
#include "daemon/snapshot.h"
#include "daemon/store.h"

static void load_guest(struct vmd *vmd, const char *id, const char *text, size_t len)
{
	struct guest *g;
	int r = guest_from_record(vmd, text, len, &g);

	if (r == 0) {
		r = registry_add(vmd->guests, g);
		if (r < 0)
			guest_unref(g);
	}
	if (r < 0)
		log_error("Guest %s cannot be loaded: %s", id, strerror(-r));
}

static void on_load(void *userdata, const char *kind, const char *id, const char *text, size_t len)
{
	struct vmd *vmd = userdata;
	int r = 0;

	if (strcmp(kind, "guests") == 0)
		load_guest(vmd, id, text, len);
	else if (strcmp(kind, "jobs") == 0)
		job_load(vmd, id, text, len);
	else if (strcmp(kind, "keys") == 0)
		rpc_key_load(vmd, id, text, len);
	else if (strcmp(kind, "snapshots") == 0)
		r = snapshot_load(vmd, text, len);
	else if (strcmp(kind, "disks") == 0)
		r = disk_load(vmd, text, len);
	if (r < 0)
		log_error("'%s/%s' cannot be loaded: %s", kind, id, strerror(-r));
}

static bool find_guest(struct vmd *vmd, const char *reference, struct rpc_guest *ret)
{
	const struct guest *g = registry_find(vmd->guests, reference);

	if (g)
		*ret = (struct rpc_guest){ .uuid = g->uuid, .name = g->name };
	return g != NULL;
}

static const struct method *const method_tables[] = {
	daemon_methods, host_methods,     vm_methods,   vm_power_methods, vm_io_methods,
	job_methods,    snapshot_methods, disk_methods, event_methods,
};

static void on_health(struct ev_loop *loop, ev_timer *timer, int events)
{
	struct vmd *vmd = container_of(timer, struct vmd, health);

	(void)loop;
	(void)events;
	if (!guest_health_check(vmd))
		ev_timer_stop(vmd->loop, timer);
}

void vmd_watch_health(struct vmd *vmd)
{
	double interval = vmd->config.health_interval_ms / 1000.0;

	if (!vmd->config.health_interval_ms || ev_is_active(&vmd->health))
		return;
	ev_timer_set(&vmd->health, interval, interval);
	ev_timer_start(vmd->loop, &vmd->health);
}

int vmd_open(struct vmd *vmd, struct vmd_error *err)
{
	int r = options_make_state_dir(&vmd->config, err);

	if (r < 0)
		return r;
	vmd->start_us = now_wall_us();
	vmd->loop = ev_loop_new(EVFLAG_AUTO);
	if (!vmd->loop || registry_new(&vmd->guests) < 0 || jobs_new(vmd) < 0)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	fiber_init(vmd->loop);
	ev_timer_init(&vmd->health, on_health, 0, 0);
	disks_init(vmd);
	snapshots_init(vmd);
	host_facts_collect(&vmd->host);
	r = store_open(vmd->config.state_dir, on_load, vmd, &vmd->store, err);
	/* Not before the state is ours: a second daemon changes nothing. */
	if (r == 0)
		r = options_make_runtime_dir(&vmd->config, err);
	if (r == 0)
		r = event_hub_new(vmd->store, vmd->config.event_ring_bytes, &vmd->events, err);
	if (r == 0)
		r = rpc_new(vmd, method_tables, ARRAY_SIZE(method_tables), true, find_guest, err);
	if (r < 0)
		return r;
	state_sweep(vmd, "snapshots");
	state_sweep(vmd, "disks");
	return 0;
}

/* Guests run on: only our ends of their sockets are let go. */
static void let_go_of_guests(struct vmd *vmd)
{
	struct guest *g;

	list_for_each(g, registry_list(vmd->guests), link) {
		guest_run_free(g->run);
		g->run = NULL;
	}
}

void vmd_close(struct vmd *vmd)
{
	listener_free(vmd->listener);
	rpc_free(vmd->rpc);
	if (vmd->guests)
		let_go_of_guests(vmd);
	event_hub_free(vmd->events);
	store_close(vmd->store);
	if (vmd->guests) {
		disks_deinit(vmd);
		snapshots_deinit(vmd);
	}
	jobs_free(vmd);
	registry_free(vmd->guests);
	host_facts_deinit(&vmd->host);
	if (vmd->loop) {
		shim_leave_all(vmd->loop);
		fiber_deinit();
		ev_loop_destroy(vmd->loop);
	}
}

struct adoption {
	struct guest *g;
	unsigned *pending;
	struct waitq *done;
};

static void adopt_one(void *arg)
{
	struct adoption *a = arg;

	guest_adopt(a->g);
	guest_unref(a->g);
	--*a->pending;
	waitq_wake_all(a->done);
	free(a);
}

/* All at once, so that a mute guest costs the others nothing; returns when every one is classified.
 */
static void adopt_all(struct vmd *vmd)
{
	unsigned pending = 0;
	struct waitq done;
	struct guest *g;

	waitq_init(&done);
	list_for_each(g, registry_list(vmd->guests), link) {
		struct adoption *a;

		if (!guest_state_is_live(g->state) && !g->restart_pending &&
		    !job_interrupted_of(vmd, g->uuid))
			continue;
		a = calloc(1, sizeof(*a));
		if (!a)
			continue;
		*a = (struct adoption){ guest_ref(g), &pending, &done };
		pending++;
		if (fiber_start("adopt", adopt_one, a) < 0) {
			pending--;
			guest_unref(g);
			free(a);
		}
	}
	while (pending)
		if (waitq_wait(&done, -1) < 0)
			break;
	jobs_settle(vmd);
}

/* Also before the loop runs: ev_break would be forgotten there. */
static void end_loop(struct vmd *vmd)
{
	vmd->ended = true;
	ev_break(vmd->loop, EVBREAK_ALL);
}

static void probe_host(void *arg)
{
	struct vmd *vmd = arg;

	(void)host_probe_kvm(vmd, &vmd->host);
}

void vmd_start(void *arg)
{
	struct vmd *vmd = arg;
	struct vmd_error err = VMD_ERROR_INIT;

	if (fiber_start("probe", probe_host, vmd) < 0)
		log_warning("Out of memory: KVM is probed at the first start of a guest");
	adopt_all(vmd);
	if (listener_new(vmd, &err) < 0) {
		log_error("%s%s%s", err.message, err.hint[0] ? "; " : "", err.hint);
		vmd->exit_code = 1;
		end_loop(vmd);
		return;
	}
	notify_ready("%zu guests", registry_count(vmd->guests));
	log_notice("Ready on '%s', %zu guests", vmd->config.socket, registry_count(vmd->guests));
	boot_autostart(vmd);
}

enum {
	END_GRACE_MS = 2000,
	END_STEP_MS = 20
};

/* Changes that are about to be answered are waited for, a little; long jobs are told as interrupted
 * by the next daemon. */
static void stop_fiber(void *arg)
{
	struct vmd *vmd = arg;

	if (boot_host_is_stopping()) {
		notify_stopping("The host goes down: stopping guests");
		log_notice("The host goes down: stopping guests");
		boot_stop_guests(vmd);
	} else {
		notify_stopping("Leaving; guests run on");
		log_notice("Leaving; guests run on");
	}
	vmd->stopping = true;
	for (int waited = 0; rpc_changes_in_flight(vmd->rpc) && waited < END_GRACE_MS;
	     waited += END_STEP_MS)
		if (fiber_sleep_ms(END_STEP_MS) < 0)
			break;
	end_loop(vmd);
}

void vmd_stop(struct vmd *vmd)
{
	if (vmd->stop_asked) {
		end_loop(vmd); /* asked twice: at once */
		return;
	}
	vmd->stop_asked = true;
	if (fiber_start("stop", stop_fiber, vmd) < 0)
		end_loop(vmd);
}
