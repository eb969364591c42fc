/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/scope.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "common/log.h"
#include "common/timeutil.h"
#include "daemon/fiber.h"

#define MANAGER_NAME  "org.freedesktop.systemd1"
#define MANAGER_PATH  "/org/freedesktop/systemd1"
#define MANAGER       "org.freedesktop.systemd1.Manager"
#define PRIVATE_BUS   "unix:path=/run/systemd/private"
#define TIME_LIMIT_US 5000000u
#define STOP_LIMIT_US 10000000u

/* One request, for a worker thread. */
struct entering {
	pid_t pid;
	char scope[96];
	char description[96];
	char message[192]; /* why not */
	char job[128];     /* D-Bus path of systemd's job */
	char result[32];   /* of the job, once it is over */
};

bool scope_is_wanted(void)
{
	return geteuid() == 0 && getenv("NOTIFY_SOCKET") && sd_booted() > 0;
}

/* systemd's own socket, as systemctl uses it for root: there without a D-Bus daemon, and still
 * there when the host goes down and that daemon goes first. */
static int open_private(sd_bus **ret)
{
	sd_bus *bus = NULL;
	int r = sd_bus_new(&bus);

	if (r >= 0)
		r = sd_bus_set_address(bus, PRIVATE_BUS);
	if (r >= 0)
		r = sd_bus_start(bus);
	if (r < 0) {
		sd_bus_unref(bus);
		return r;
	}
	*ret = bus;
	return 0;
}

int scope_open_bus(sd_bus **ret)
{
	int r = geteuid() == 0 ? open_private(ret) : -EPERM;

	if (r < 0)
		r = sd_bus_open_system(ret);
	return r < 0 ? r : 0;
}

static int on_job_removed(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
	struct entering *e = userdata;
	const char *path, *unit, *result;
	uint32_t id;

	(void)error;
	if (sd_bus_message_read(m, "uoss", &id, &path, &unit, &result) >= 0 &&
	    strcmp(path, e->job) == 0)
		snprintf(e->result, sizeof(e->result), "%s", result);
	return 0;
}

/* Stopped after vmd.service, at a shutdown of the host, since it comes before it. */
static int append_properties(sd_bus_message *m, const struct entering *e)
{
	int r = sd_bus_message_open_container(m, 'a', "(sv)");

	if (r >= 0)
		r = sd_bus_message_append(m, "(sv)", "PIDs", "au", 1, (uint32_t)e->pid);
	if (r >= 0)
		r = sd_bus_message_append(m, "(sv)(sv)(sv)(sv)", "Description", "s", e->description,
		                          "Slice", "s", "vmd-guests.slice", "Before", "as", 1,
		                          "vmd.service", "CollectMode", "s", "inactive-or-failed");
	if (r >= 0)
		r = sd_bus_message_append(m, "(sv)(sv)", "TasksMax", "t", UINT64_MAX,
		                          "TimeoutStopUSec", "t", (uint64_t)STOP_LIMIT_US);
	return r < 0 ? r : sd_bus_message_close_container(m);
}

static int start_unit(sd_bus *bus, struct entering *e, sd_bus_error *error)
{
	sd_bus_message *m = NULL, *reply = NULL;
	const char *job;
	int r = sd_bus_message_new_method_call(bus, &m, MANAGER_NAME, MANAGER_PATH, MANAGER,
	                                       "StartTransientUnit");

	if (r >= 0)
		r = sd_bus_message_append(m, "ss", e->scope, "fail");
	if (r >= 0)
		r = append_properties(m, e);
	if (r >= 0)
		r = sd_bus_message_append(m, "a(sa(sv))", 0);
	if (r >= 0)
		r = sd_bus_call(bus, m, TIME_LIMIT_US, error, &reply);
	if (r >= 0)
		r = sd_bus_message_read(reply, "o", &job);
	if (r >= 0)
		snprintf(e->job, sizeof(e->job), "%s", job);
	sd_bus_message_unref(m);
	sd_bus_message_unref(reply);
	return r;
}

/* Until the job is over: before that the process is not there yet. */
static int wait_for_job(sd_bus *bus, struct entering *e)
{
	uint64_t end = now_monotonic_us() + TIME_LIMIT_US;

	while (!e->result[0]) {
		uint64_t now = now_monotonic_us();
		int r = sd_bus_process(bus, NULL);

		if (r < 0)
			return r;
		if (r > 0)
			continue;
		if (now >= end)
			return -ETIMEDOUT;
		r = sd_bus_wait(bus, end - now);
		if (r < 0 && r != -EINTR)
			return r;
	}
	return strcmp(e->result, "done") == 0 ? 0 : -EIO;
}

static int enter(void *arg)
{
	struct entering *e = arg;
	sd_bus_error error = SD_BUS_ERROR_NULL;
	sd_bus *bus = NULL;
	int r = scope_open_bus(&bus);

	if (r >= 0)
		r = sd_bus_match_signal(bus, NULL, NULL, MANAGER_PATH, MANAGER, "JobRemoved",
		                        on_job_removed, e);
	/* systemd sends its signals only to those who asked for them. */
	if (r >= 0)
		r = sd_bus_call_method(bus, MANAGER_NAME, MANAGER_PATH, MANAGER, "Subscribe",
		                       &error, NULL, NULL);
	if (r >= 0)
		r = start_unit(bus, e, &error);
	if (r >= 0)
		r = wait_for_job(bus, e);
	if (r < 0)
		snprintf(e->message, sizeof(e->message), "%s",
		         error.message ? error.message : strerror(-r));
	sd_bus_error_free(&error);
	sd_bus_flush_close_unref(bus);
	return r < 0 ? r : 0;
}

void scope_enter(pid_t pid, const char *uuid, const char *name)
{
	struct entering e = { .pid = pid };

	/* The pid tells apart a last run's scope that systemd has not collected yet. */
	snprintf(e.scope, sizeof(e.scope), "vmd-guest-%s-%d.scope", uuid, pid);
	snprintf(e.description, sizeof(e.description), "Guest %s of vmd", name);
	if (work_run(enter, &e) < 0)
		log_warning("Guest '%s' stays in the control group of vmd.service: %s", name,
		            e.message);
}
