/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/boot.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-bus.h>

#include "common/cleanup.h"
#include "common/jsonx.h"
#include "common/log.h"
#include "common/procutil.h"
#include "daemon/guest-run.h"
#include "daemon/notify.h"
#include "daemon/power.h"
#include "daemon/scope.h"
#include "daemon/store.h"
#include "daemon/vmd.h"

struct candidate {
	struct guest *g;
	int64_t order, delay_ms;
};

struct start_group {
	unsigned running;
	struct waitq done;
};

struct group_start {
	struct guest *g;
	struct start_group *group;
};

static int compare_order(const void *a, const void *b)
{
	const struct candidate *x = a, *y = b;

	return (x->order > y->order) - (x->order < y->order);
}

static size_t collect(struct vmd *vmd, struct candidate *list)
{
	size_t n = 0;
	struct guest *g;

	list_for_each(g, registry_list(vmd->guests), link) {
		cleanup_json json_t *definition = NULL;
		const json_t *autostart;

		if (!strstr(g->definition, "\"autostart\"") || guest_state_is_live(g->state))
			continue;
		/* Once per boot of the host: what somebody stopped since then stays stopped. */
		if (strcmp(g->started_boot, proc_boot_id()) == 0)
			continue;
		definition = guest_definition(g);
		autostart = json_object_get(definition, "autostart");
		if (!jsonx_bool(autostart, "enabled", false))
			continue;
		list[n++] = (struct candidate){ guest_ref(g), jsonx_int(autostart, "order", 0),
			                        jsonx_int(autostart, "delay_ms", 0) };
	}
	return n;
}

static void start_one(void *arg)
{
	struct group_start *s = arg;
	struct vmd_error err = VMD_ERROR_INIT;

	if (fiber_mutex_lock(&s->g->lock) == 0) {
		if (!s->g->deleted && !guest_state_is_live(s->g->state) &&
		    guest_start(s->g, false, "autostart", "vmd", &err) < 0)
			log_warning("Guest '%s' was not started: %s", s->g->name, err.message);
		fiber_mutex_unlock(&s->g->lock);
	}
	s->group->running--;
	waitq_wake_all(&s->group->done);
	guest_unref(s->g);
	free(s);
}

static void launch_one(struct start_group *group, struct guest *g)
{
	struct group_start *s = calloc(1, sizeof(*s));

	if (!s) {
		guest_unref(g);
		return;
	}
	s->g = g;
	s->group = group;
	group->running++;
	if (fiber_start("autostart", start_one, s) < 0) {
		group->running--;
		guest_unref(g);
		free(s);
	}
}

/* Guests of one order together; then the longest of their delays; then the next order. */
static void autostart_fiber(void *arg)
{
	struct vmd *vmd = arg;
	struct candidate *list = calloc(registry_count(vmd->guests) + 1, sizeof(*list));
	size_t n = list ? collect(vmd, list) : 0;

	qsort(list, n, sizeof(*list), compare_order);
	for (size_t i = 0; i < n;) {
		struct start_group group = { .running = 0 };
		int64_t order = list[i].order, delay_ms = 0;

		waitq_init(&group.done);
		for (; i < n && list[i].order == order; i++) {
			delay_ms = MAX_OF(delay_ms, list[i].delay_ms);
			launch_one(&group, list[i].g);
		}
		while (group.running)
			if (waitq_wait(&group.done, -1) < 0)
				break;
		if (i < n && delay_ms)
			(void)fiber_sleep_ms((uint64_t)delay_ms);
	}
	free(list);
}

void boot_autostart(struct vmd *vmd)
{
	if (fiber_start("autostart", autostart_fiber, vmd) < 0)
		log_error("Out of memory: no guest is started by itself");
}

/* Asks the service manager; may wait for as long as the bus lets it. */
static int ask_manager(void *arg UNUSED)
{
	sd_bus_error error = SD_BUS_ERROR_NULL;
	cleanup_free char *state = NULL;
	sd_bus *bus = NULL;
	int stopping = 0;

	if (scope_open_bus(&bus) < 0)
		return 0;
	if (sd_bus_get_property_string(bus, "org.freedesktop.systemd1", "/org/freedesktop/systemd1",
	                               "org.freedesktop.systemd1.Manager", "SystemState", &error,
	                               &state) >= 0)
		stopping = strcmp(state, "stopping") == 0;
	sd_bus_error_free(&error);
	sd_bus_flush_close_unref(bus);
	return stopping;
}

bool boot_host_is_stopping(void)
{
	return work_run(ask_manager, NULL) > 0;
}

static void stop_one(void *arg)
{
	struct group_start *s = arg;
	struct vmd_error err = VMD_ERROR_INIT;

	if (fiber_mutex_lock(&s->g->lock) == 0) {
		if (power_host_shutdown(s->g, &err) < 0)
			log_warning("Guest '%s' at host shutdown: %s", s->g->name, err.message);
		fiber_mutex_unlock(&s->g->lock);
	}
	s->group->running--;
	waitq_wake_all(&s->group->done);
	guest_unref(s->g);
	free(s);
}

void boot_stop_guests(struct vmd *vmd)
{
	enum {
		EXTEND_MS = 15000
	};
	struct start_group group = { .running = 0 };
	struct guest *g;

	waitq_init(&group.done);
	list_for_each(g, registry_list(vmd->guests), link) {
		struct group_start *s;

		if (!g->run)
			continue;
		s = calloc(1, sizeof(*s));
		if (!s)
			continue;
		s->g = guest_ref(g);
		s->group = &group;
		group.running++;
		if (fiber_start("host-shutdown", stop_one, s) < 0) {
			group.running--;
			guest_unref(g);
			free(s);
		}
	}
	/* Every guest has a deadline of its own, so the service manager's does not count meanwhile.
	 */
	while (group.running) {
		int r;

		notify_extend(EXTEND_MS);
		r = waitq_wait(&group.done, EXTEND_MS / 3);
		if (r < 0 && r != -ETIMEDOUT)
			break;
	}
}
