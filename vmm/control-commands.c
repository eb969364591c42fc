/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The commands of QMP that this monitor knows: a table. Names and shapes are QEMU's. */
#include "config.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/jsonx.h"
#include "common/macros.h"
#include "vmm/control.h"

enum {
	MAX_ARGUMENTS = 2,
	BALLOON_PAGE = 4096
};

struct command {
	const char *name;
	int (*run)(struct control *c, const json_t *args, json_t **ret, struct vmd_error *err);
	/* Type: 's' string, 'i' integer. All of them are needed. */
	struct {
		const char *name;
		char type;
	} arguments[MAX_ARGUMENTS];
};

static int query_status(struct control *c, const json_t *args UNUSED, json_t **ret,
                        struct vmd_error *err UNUSED)
{
	*ret = json_pack("{s:b, s:b, s:s}", "running", machine_is_running(c->machine), "singlestep",
	                 0, "status", machine_status_name(c->machine->status));
	return 0;
}

static int stop(struct control *c, const json_t *args UNUSED, json_t **ret UNUSED,
                struct vmd_error *err)
{
	int r = machine_settle(c->machine, err);

	if (r == 0)
		machine_stop(c->machine, MACHINE_PAUSED);
	return r;
}

static int cont(struct control *c, const json_t *args UNUSED, json_t **ret UNUSED,
                struct vmd_error *err)
{
	return machine_cont(c->machine, err);
}

static int system_powerdown(struct control *c, const json_t *args UNUSED, json_t **ret UNUSED,
                            struct vmd_error *err UNUSED)
{
	control_event(c, "POWERDOWN", NULL);
	acpi_power_raise(&c->machine->power, ACPI_EVENT_POWER_BUTTON);
	return 0;
}

static int system_reset(struct control *c, const json_t *args UNUSED, json_t **ret UNUSED,
                        struct vmd_error *err)
{
	int r = machine_settle(c->machine, err);

	return r == 0 ? machine_reset(c->machine, false, err) : r;
}

static int quit(struct control *c, const json_t *args UNUSED, json_t **ret UNUSED,
                struct vmd_error *err UNUSED)
{
	c->quitting = true;
	return 0;
}

static int inject_nmi(struct control *c, const json_t *args UNUSED, json_t **ret UNUSED,
                      struct vmd_error *err)
{
	return machine_nmi(c->machine, err);
}

static int query_cpus_fast(struct control *c, const json_t *args UNUSED, json_t **ret,
                           struct vmd_error *err UNUSED)
{
	const struct vmm_cpus *cpus = &c->machine->config->cpus;
	char path[64];

	*ret = json_array();
	for (unsigned i = 0; i < c->machine->vcpus.n; i++) {
		unsigned core = i / cpus->threads;

		snprintf(path, sizeof(path), "/machine/unattached/device[%u]", i);
		json_array_append_new(
			*ret, json_pack("{s:i, s:s, s:i, s:s, s:{s:i, s:i, s:i}}", "cpu-index",
		                        (int)i, "qom-path", path, "thread-id",
		                        (int)atomic_load(&c->machine->vcpus.v[i].tid), "target",
		                        "x86_64", "props", "socket-id", (int)(core / cpus->cores),
		                        "core-id", (int)(core % cpus->cores), "thread-id",
		                        (int)(i % cpus->threads)));
	}
	return 0;
}

static int query_blockstats(struct control *c, const json_t *args UNUSED, json_t **ret,
                            struct vmd_error *err UNUSED)
{
	*ret = control_blockstats(c);
	return 0;
}

static int no_balloon(struct vmd_error *err)
{
	return error_set(err, ERROR_UNSUPPORTED, "No balloon device has been activated");
}

static int query_balloon(struct control *c, const json_t *args UNUSED, json_t **ret,
                         struct vmd_error *err)
{
	const struct machine *m = c->machine;

	if (!m->balloon)
		return no_balloon(err);
	*ret = json_pack("{s:I}", "actual",
	                 (json_int_t)(m->config->memory_bytes -
	                              virtio_balloon_actual(m->balloon) * BALLOON_PAGE));
	return 0;
}

static int balloon(struct control *c, const json_t *args, json_t **ret UNUSED,
                   struct vmd_error *err)
{
	int64_t value = jsonx_int(args, "value", 0);
	uint64_t ram = c->machine->config->memory_bytes;

	if (!c->machine->balloon)
		return no_balloon(err);
	if (value <= 0 || (uint64_t)value > ram)
		return error_set(err, ERROR_INVALID, "Parameter 'target' expects a size");
	virtio_balloon_set_target(c->machine->balloon, (ram - (uint64_t)value) / BALLOON_PAGE);
	return 0;
}

static struct control_fd *find_fd(struct control *c, const char *name)
{
	for (unsigned i = 0; i < CONTROL_MAX_FDS; i++)
		if (c->named[i].fd >= 0 && strcmp(c->named[i].name, name) == 0)
			return &c->named[i];
	return NULL;
}

static int getfd(struct control *c, const json_t *args, json_t **ret UNUSED, struct vmd_error *err)
{
	const char *name = jsonx_str(args, "fdname", "");
	struct control_fd *slot = find_fd(c, name);

	if (!c->n_received)
		return error_set(err, ERROR_INVALID, "No file descriptor supplied via SCM_RIGHTS");
	if (!name[0] || strlen(name) >= sizeof(slot->name))
		return error_set(err, ERROR_INVALID, "Parameter 'fdname' expects a short name");
	for (unsigned i = 0; !slot && i < CONTROL_MAX_FDS; i++)
		if (c->named[i].fd < 0)
			slot = &c->named[i];
	if (!slot)
		return error_set(err, ERROR_NO_SPACE, "Too many named file descriptors");
	cleanup_close_p(&slot->fd);
	snprintf(slot->name, sizeof(slot->name), "%s", name);
	slot->fd = c->received[--c->n_received];
	return 0;
}

static int closefd(struct control *c, const json_t *args, json_t **ret UNUSED,
                   struct vmd_error *err)
{
	struct control_fd *slot = find_fd(c, jsonx_str(args, "fdname", ""));

	if (!slot)
		return error_set(err, ERROR_NOT_FOUND, "File descriptor named '%.64s' not found",
		                 jsonx_str(args, "fdname", ""));
	cleanup_close_p(&slot->fd);
	return 0;
}

/* "fd:NAME": takes the descriptor out. */
static int take_uri(struct control *c, const json_t *args, int *ret_fd, struct vmd_error *err)
{
	const char *uri = jsonx_str(args, "uri", "");
	struct control_fd *slot;

	if (strncmp(uri, "fd:", 3) != 0)
		return error_set(err, ERROR_UNSUPPORTED, "only migration to 'fd:NAME' is known");
	slot = find_fd(c, uri + 3);
	if (!slot)
		return error_set(err, ERROR_NOT_FOUND, "File descriptor named '%.64s' not found",
		                 uri + 3);
	*ret_fd = TAKE_FD(slot->fd);
	return 0;
}

static int migrate(struct control *c, const json_t *args, json_t **ret UNUSED,
                   struct vmd_error *err)
{
	int fd, r = take_uri(c, args, &fd, err);

	return r < 0 ? r : snapshot_save(&c->snapshot, c->machine, fd, err);
}

static int migrate_incoming(struct control *c, const json_t *args, json_t **ret UNUSED,
                            struct vmd_error *err)
{
	struct machine *m = c->machine;
	struct vmd_error refused = VMD_ERROR_INIT;
	int fd, r;

	if (m->status != MACHINE_INMIGRATE || c->snapshot.status != SNAPSHOT_NONE)
		return error_set(err, ERROR_WRONG_STATE,
		                 "this guest does not wait for a saved state");
	r = take_uri(c, args, &fd, err);
	if (r < 0)
		return r;
	/* As in QEMU, the command begins it, and query-migrate tells how it ended. */
	if (snapshot_load(&c->snapshot, m, fd, &refused) < 0)
		fprintf(stderr, "vmd-vmm: the saved state is refused: %s\n", refused.message);
	else if (!m->config->paused)
		return machine_cont(m, err);
	return 0;
}

static int query_migrate(struct control *c, const json_t *args UNUSED, json_t **ret,
                         struct vmd_error *err UNUSED)
{
	const struct snapshot *s = &c->snapshot;

	if (s->status == SNAPSHOT_NONE)
		return 0;
	*ret = json_pack("{s:s, s:{s:I, s:I, s:I}}", "status", snapshot_status_name(s->status),
	                 "ram", "total", (json_int_t)s->total, "remaining",
	                 (json_int_t)(s->total - s->done), "transferred", (json_int_t)s->written);
	if (*ret && s->status == SNAPSHOT_FAILED)
		json_object_set_new(*ret, "error-desc", json_string(s->error.message));
	return 0;
}

static int migrate_set_parameters(struct control *c, const json_t *args, json_t **ret UNUSED,
                                  struct vmd_error *err)
{
	int64_t rate = jsonx_int(args, "max-bandwidth", 0);

	if (rate < 0)
		return error_set(err, ERROR_INVALID,
		                 "Parameter 'max-bandwidth' expects a rate in bytes per second");
	c->snapshot.bytes_per_s = (uint64_t)rate;
	return 0;
}

static int migrate_cancel(struct control *c, const json_t *args UNUSED, json_t **ret UNUSED,
                          struct vmd_error *err UNUSED)
{
	snapshot_cancel(&c->snapshot, c->machine);
	return 0;
}

static int query_version(struct control *c UNUSED, const json_t *args UNUSED, json_t **ret,
                         struct vmd_error *err UNUSED)
{
	*ret = json_pack("{s:{s:i, s:i, s:i}, s:s}", "qemu", "micro", 0, "minor", 2, "major", 7,
	                 "package", "vmd-vmm " PACKAGE_VERSION);
	return 0;
}

static int query_name(struct control *c, const json_t *args UNUSED, json_t **ret,
                      struct vmd_error *err UNUSED)
{
	*ret = json_pack("{s:s}", "name", c->machine->config->name);
	return 0;
}

static int query_uuid(struct control *c, const json_t *args UNUSED, json_t **ret,
                      struct vmd_error *err UNUSED)
{
	*ret = json_pack("{s:s}", "UUID", c->machine->config->uuid);
	return 0;
}

static int query_kvm(struct control *c UNUSED, const json_t *args UNUSED, json_t **ret,
                     struct vmd_error *err UNUSED)
{
	*ret = json_pack("{s:b, s:b}", "enabled", 1, "present", 1);
	return 0;
}

static int stats(struct control *c, const json_t *args UNUSED, json_t **ret,
                 struct vmd_error *err UNUSED)
{
	*ret = control_stats(c);
	return 0;
}

static int query_memory(struct control *c, const json_t *args UNUSED, json_t **ret,
                        struct vmd_error *err UNUSED)
{
	*ret = json_pack("{s:I, s:i}", "base-memory", (json_int_t)c->machine->config->memory_bytes,
	                 "plugged-memory", 0);
	return 0;
}

static int query_commands(struct control *c, const json_t *args, json_t **ret,
                          struct vmd_error *err);

static const struct command commands[] = {
	{ "balloon", balloon, { { "value", 'i' } } },
	{ "closefd", closefd, { { "fdname", 's' } } },
	{ "cont", cont, { { 0 } } },
	{ "getfd", getfd, { { "fdname", 's' } } },
	{ "inject-nmi", inject_nmi, { { 0 } } },
	{ "migrate", migrate, { { "uri", 's' } } },
	{ "migrate-incoming", migrate_incoming, { { "uri", 's' } } },
	{ "migrate-set-parameters", migrate_set_parameters, { { "max-bandwidth", 'i' } } },
	{ "migrate_cancel", migrate_cancel, { { 0 } } },
	{ "query-balloon", query_balloon, { { 0 } } },
	{ "query-blockstats", query_blockstats, { { 0 } } },
	{ "query-commands", query_commands, { { 0 } } },
	{ "query-cpus-fast", query_cpus_fast, { { 0 } } },
	{ "query-kvm", query_kvm, { { 0 } } },
	{ "query-memory-size-summary", query_memory, { { 0 } } },
	{ "query-migrate", query_migrate, { { 0 } } },
	{ "query-name", query_name, { { 0 } } },
	{ "query-status", query_status, { { 0 } } },
	{ "query-uuid", query_uuid, { { 0 } } },
	{ "query-version", query_version, { { 0 } } },
	{ "quit", quit, { { 0 } } },
	{ "stop", stop, { { 0 } } },
	{ "system_powerdown", system_powerdown, { { 0 } } },
	{ "system_reset", system_reset, { { 0 } } },
	{ "x-vmd-stats", stats, { { 0 } } },
};

static int query_commands(struct control *c UNUSED, const json_t *args UNUSED, json_t **ret,
                          struct vmd_error *err UNUSED)
{
	*ret = json_array();
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		json_array_append_new(*ret, json_pack("{s:s}", "name", commands[i].name));
	return 0;
}

static int check_arguments(const struct command *cmd, const json_t *args, struct vmd_error *err)
{
	size_t known = 0;
	const char *key;
	json_t *value;

	for (size_t i = 0; i < MAX_ARGUMENTS && cmd->arguments[i].name; i++) {
		value = json_object_get(args, cmd->arguments[i].name);
		if (!value)
			return error_set(err, ERROR_INVALID, "Parameter '%s' is missing",
			                 cmd->arguments[i].name);
		if (cmd->arguments[i].type == 's' ? !json_is_string(value)
		                                  : !json_is_integer(value))
			return error_set(err, ERROR_INVALID,
			                 "Invalid parameter type for '%s', expected: %s",
			                 cmd->arguments[i].name,
			                 cmd->arguments[i].type == 's' ? "string" : "integer");
		known++;
	}
	if (json_object_size(args) == known)
		return 0;
	json_object_foreach((json_t *)args, key, value) {
		size_t i = 0;

		while (i < known && strcmp(cmd->arguments[i].name, key) != 0)
			i++;
		if (i == known)
			return error_set(err, ERROR_INVALID, "Parameter '%.64s' is unexpected",
			                 key);
	}
	return -EINVAL;
}

int control_execute(struct control *c, const char *name, const json_t *args, json_t **ret,
                    const char **ret_class, struct vmd_error *err)
{
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		int r;

		if (strcmp(commands[i].name, name) != 0)
			continue;
		r = check_arguments(&commands[i], args, err);
		return r < 0 ? r : commands[i].run(c, args, ret, err);
	}
	*ret_class = "CommandNotFound";
	return error_set(err, ERROR_NOT_FOUND, "The command %.64s has not been found", name);
}
