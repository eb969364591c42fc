/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Fields of a definition that are vmd's own business: who, when, and what then. */
#include "config.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <systemd/sd-bus.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "tests/integration/qemu-fixture.h"

TestSuite(policy, .timeout = 400, .init = qemu_setup, .fini = qemu_teardown);

#define UUID   "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
#define NOBODY 65534

Test(policy, a_guest_has_the_uuid_it_was_given)
{
	json_t *info, *reply;

	guest_create_bare(&s, "a", js("{'uuid': '" UUID "'}"));
	call_ok(&s.client, "vm.start", "{s:s}", "vm", UUID);
	info = qmp("query-uuid", NULL);
	cr_expect_str_eq(member_str(info, "UUID"), UUID);
	json_decref(info);
	cr_expect_eq(access(scene_path(&s, "state/guests/" UUID), F_OK), 0);
	reply = call_raw(&s.client, "vm.create",
	                 js("{'definition': {'name': 'b', 'uuid': '" UUID "'}}"), NULL, 0);
	cr_expect_str_eq(refusal_of(reply).kind, "exists");
	json_decref(reply);
	cr_expect_str_eq(call_refused(&s.client, "invalid", "vm.update", "{s:s, s:{s:s}}", "vm",
	                              "a", "set", "uuid", "11111111-4e5f-6071-8293-a4b5c6d7e8f9")
	                         .field,
	                 "set.uuid");
}

Test(policy, labels_select)
{
	json_t *list;

	guest_create_bare(&s, "a", js("{'labels': {'tier': 'front', 'zone': '1'}}"));
	guest_create_bare(&s, "b", js("{'labels': {'tier': 'back', 'zone': '1'}}"));
	list = call(&s.client, "vm.list", "{s:{s:s, s:s}}", "labels", "tier", "back", "zone", "1");
	cr_assert_eq(json_array_size(member(list, "vms")), 1);
	cr_expect_str_eq(member_str(list, "vms.0.name"), "b");
	json_decref(list);
	list = call(&s.client, "vm.list", "{s:{s:s}}", "labels", "zone", "2");
	cr_expect_eq(json_array_size(member(list, "vms")), 0);
	json_decref(list);
}

/* An operator who is nobody else: it may change what belongs to it, and nothing else. */
Test(policy, an_owner_may_what_others_may_not)
{
	struct client nobody;

	expect_refused("invalid", "definition.owner", "no user", "{'owner': 'no-such-user'}");
	if (geteuid() != 0)
		cr_skip_test("another user is needed, and only root can be one");
	scene_stop(&s);
	scene_config(&s, "[daemon]\noperator_group = nogroup\n");
	scene_start(&s);
	guest_create_bare(&s, "a", js("{'owner': 'nobody'}"));
	guest_create_bare(&s, "b", js("{'owner': '0'}"));
	cr_assert_eq(chmod(s.root, 0711), 0);
	cr_assert_eq(chmod(s.runtime_dir, 0711), 0);
	cr_assert_eq(chmod(s.socket, 0666), 0);
	cr_assert_eq(setegid(NOBODY), 0);
	cr_assert_eq(seteuid(NOBODY), 0);
	cr_assert(client_open(&nobody, s.socket));
	cr_assert_eq(seteuid(0), 0);
	cr_assert_eq(setegid(0), 0);
	call_ok(&nobody, "vm.start", "{s:s}", "vm", "a");
	call_refused(&nobody, "denied", "vm.start", "{s:s}", "vm", "b");
	call_ok(&nobody, "vm.get", "{s:s}", "vm", "b");
	client_close(&nobody);
}

Test(policy, autostart_has_an_order_and_delays)
{
	static const char *const names[] = { "first", "second", "third" };
	json_int_t started[3];

	guest_create_bare(&s, "third", js("{'autostart': {'enabled': true, 'order': 9}}"));
	guest_create_bare(&s, "first",
	                  js("{'autostart': {'enabled': true, 'order': 1, 'delay_ms': 1500}}"));
	guest_create_bare(&s, "second", js("{'autostart': {'enabled': true, 'order': 5}}"));
	guest_create_bare(&s, "never", js("{'autostart': {'enabled': false, 'order': 0}}"));
	scene_stop(&s);
	scene_start(&s);
	call_ok(&s.client, "events.subscribe", "{s:i}", "since", 0);
	for (size_t i = 0; i < 3; i++) {
		json_t *event =
			event_wait(&s.client, "vm.state", names[i], "state", "running", 60000);

		started[i] = member_int(event, "time_us");
		json_decref(event);
	}
	cr_expect_geq(started[1] - started[0], 1500000);
	cr_expect_geq(started[2], started[1]);
	guest_expect_state(&s, "never", "defined");
}

static void kill_engine(void)
{
	json_t *info = call(&s.client, "vm.get", "{s:s}", "vm", "a");

	cr_assert_eq(kill((pid_t)member_int(info, "pid"), SIGKILL), 0);
	json_decref(info);
}

static void expect_state_event(const char *state)
{
	json_decref(event_wait(&s.client, "vm.state", "a", "state", state, 60000));
}

Test(policy, restarts_back_off_up_to_a_cap)
{
	static const int delays[] = { 40, 80, 100, 100 };

	guest_create_bare(&s, "a",
	                  js("{'restart': {'policy': 'on-failure', 'backoff_ms': 40, "
	                     "'max_backoff_ms': 100, 'max_restarts': 4}}"));
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	expect_state_event("running");
	for (size_t i = 0; i < 4; i++) {
		json_t *event;

		kill_engine();
		event = event_wait(&s.client, "vm.restart_planned", "a", NULL, NULL, 60000);
		cr_expect_eq(member_int(event, "data.delay_ms"), delays[i]);
		cr_expect_eq(member_int(event, "data.attempt"), (json_int_t)i + 1);
		json_decref(event);
		expect_state_event("running");
	}
	kill_engine();
	json_decref(event_wait(&s.client, "vm.restart_given_up", "a", NULL, NULL, 60000));
	guest_expect_state(&s, "a", "failed");
}

/* "no" leaves a failed guest alone; "always" also starts one that ended well. */
Test(policy, restart_policies_differ)
{
	guest_create_bare(&s, "a", js("{'restart': {'policy': 'no'}}"));
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	expect_state_event("running");
	kill_engine();
	expect_state_event("failed");
	call_ok(&s.client, "vm.update", "{s:s, s:{s:{s:s, s:i}}}", "vm", "a", "set", "restart",
	        "policy", "always", "backoff_ms", 1);
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	expect_state_event("running");
	json_decref(qmp("quit", NULL));
	expect_state_event("stopped");
	expect_state_event("running");
	/* What somebody asked for is not undone. */
	call_ok(&s.client, "vm.stop", "{s:s, s:i}", "vm", "a", "timeout_ms", 1);
	guest_expect_state(&s, "a", "stopped");
}

Test(policy, a_soft_stop_has_the_time_of_the_definition)
{
	json_t *event;
	json_int_t begin;

	/* Firmware without a disk hears no power button. */
	guest_create_bare(&s, "a", js("{'stop_timeout_ms': 700}"));
	call_ok(&s.client, "vm.start", "{s:s}", "vm", "a");
	call_ok(&s.client, "vm.stop", "{s:s}", "vm", "a");
	event = event_wait(&s.client, "vm.state", "a", "state", "stopping", 60000);
	begin = member_int(event, "time_us");
	json_decref(event);
	event = event_wait(&s.client, "vm.state", "a", "state", "stopped", 60000);
	cr_expect_geq(member_int(event, "time_us") - begin, 700000);
	cr_expect_lt(member_int(event, "time_us") - begin, 60000000, "not the default of 90 s");
	json_decref(event);
}

/* A bus that says that the host is shutting down. */
static int answer(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
	(void)userdata;
	(void)error;
	if (sd_bus_message_is_method_call(m, "org.freedesktop.DBus", "Hello"))
		return sd_bus_reply_method_return(m, "s", ":1.1");
	if (sd_bus_message_is_method_call(m, "org.freedesktop.DBus.Properties", "Get"))
		return sd_bus_reply_method_return(m, "v", "s", "stopping");
	return 0;
}

static void serve_bus(int listening)
{
	sd_id128_t id = SD_ID128_NULL;

	sd_id128_randomize(&id);
	for (;;) {
		int fd = accept4(listening, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		sd_bus *bus = NULL;

		if (sd_bus_new(&bus) < 0 || sd_bus_set_fd(bus, fd, fd) < 0 ||
		    sd_bus_set_server(bus, 1, id) < 0 || sd_bus_set_trusted(bus, 1) < 0 ||
		    sd_bus_add_filter(bus, NULL, answer, NULL) < 0 || sd_bus_start(bus) < 0)
			_exit(1);
		for (int r = 0; r >= 0;) {
			r = sd_bus_process(bus, NULL);
			if (r == 0)
				r = sd_bus_wait(bus, UINT64_MAX);
		}
		sd_bus_close_unref(bus);
	}
}

static pid_t start_bus(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char variable[160];
	pid_t pid;

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", scene_path(&s, "bus"));
	cr_assert_eq(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	cr_assert_eq(listen(fd, 8), 0);
	snprintf(variable, sizeof(variable), "unix:path=%s", address.sun_path);
	setenv("DBUS_SYSTEM_BUS_ADDRESS", variable, 1);
	pid = fork();
	cr_assert_geq(pid, 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		serve_bus(fd);
	}
	return pid;
}

/* The host's own service manager, which root's vmd asks before any bus, is not to be asked. */
static void hide_service_manager(void)
{
	if (access("/run/systemd/private", F_OK) < 0)
		return;
	cr_assert_eq(unshare(CLONE_NEWNS), 0);
	cr_assert_eq(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
	cr_assert_eq(mount("none", "/run/systemd", "tmpfs", 0, NULL), 0);
}

Test(policy, a_host_that_shuts_down_ends_guests_as_told)
{
	static const char *const guests[][3] = {
		/* In the order in which they end. */
		{ "kill", "stopped", "host-shutdown" },
		{ "stop", "stopped", "host-shutdown" },
		{ "suspend", "suspended", NULL },
		{ "leave", "running", NULL },
	};
	pid_t bus;

	scene_stop(&s);
	hide_service_manager();
	bus = start_bus();
	scene_start(&s);
	for (size_t i = 0; i < ARRAY_SIZE(guests); i++) {
		guest_create_bare(
			&s, guests[i][0],
			js("{'on_host_shutdown': '%s', 'stop_timeout_ms': 300}", guests[i][0]));
		call_ok(&s.client, "vm.start", "{s:s}", "vm", guests[i][0]);
	}
	scene_stop(&s);
	kill(bus, SIGKILL);
	cr_assert_eq(waitpid(bus, NULL, 0), bus);
	unsetenv("DBUS_SYSTEM_BUS_ADDRESS");
	scene_start(&s);
	for (size_t i = 0; i < ARRAY_SIZE(guests); i++)
		guest_expect_state(&s, guests[i][0], guests[i][1]);
	call_ok(&s.client, "events.subscribe", "{s:i}", "since", 0);
	for (size_t i = 0; i < ARRAY_SIZE(guests); i++) {
		json_t *event;

		if (!guests[i][2])
			continue;
		event = event_wait(&s.client, "vm.state", guests[i][0], "state", guests[i][1],
		                   10000);
		cr_expect_str_eq(member_str(event, "data.cause"), guests[i][2]);
		json_decref(event);
	}
}
