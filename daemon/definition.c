/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/definition.h"

#include <linux/if_tun.h>
#include <net/if.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <systemd/sd-id128.h>

#include "common/cleanup.h"
#include "common/jsonx.h"
#include "common/parse.h"
#include "daemon/definition-parts.h"
#include "daemon/disk.h"
#include "daemon/vmd.h"

static int complete_uuid(json_t *definition, const struct guest *old, struct vmd_error *err)
{
	const char *uuid = jsonx_str(definition, "uuid", NULL);
	char text[SD_ID128_UUID_STRING_MAX];
	sd_id128_t id;
	int r;

	if (old && uuid && strcmp(uuid, old->uuid) != 0)
		return error_set_field(err, "set.uuid", "the uuid of guest '%s' cannot change",
		                       old->name);
	if (uuid && is_uuid(uuid))
		return 0;
	if (uuid)
		return error_set_field(err, "definition.uuid", "'%.64s' is no lower-case uuid",
		                       uuid);
	if (old)
		return jsonx_set(definition, "uuid", json_string(old->uuid)) ? 0 : -ENOMEM;
	r = sd_id128_randomize(&id);
	if (r < 0)
		return error_set_errno(err, -r, "cannot make a uuid");
	return jsonx_set(definition, "uuid", json_string(sd_id128_to_uuid_string(id, text)))
	               ? 0
	               : -ENOMEM;
}

static int complete_name(const json_t *definition, const struct guest *old, struct vmd_error *err)
{
	const char *name = jsonx_str(definition, "name", "");

	if (!is_object_name(name)) {
		(void)error_set_field(err, "definition.name", "'%.64s' is no guest name", name);
		error_hint(err,
		           "use a-z, 0-9, '.', '_', '-', at most 63 characters, a letter or digit "
		           "first");
		return -EINVAL;
	}
	if (old && strcmp(name, old->name) != 0) {
		(void)error_set_field(err, "set.name", "vm.update cannot rename guest '%s'",
		                      old->name);
		error_hint(err, "use vm.rename");
		return -EINVAL;
	}
	return 0;
}

/* A locally administered unicast address under QEMU's prefix 52:54:00. */
static int make_mac(char ret[18])
{
	uint8_t b[3];

	if (getrandom(b, sizeof(b), 0) != sizeof(b))
		return -EIO;
	snprintf(ret, 18, "52:54:00:%02x:%02x:%02x", b[0], b[1], b[2]);
	return 0;
}

static int complete_nics(json_t *definition, struct vmd_error *err)
{
	json_t *nics = json_object_get(definition, "nics"), *nic;
	size_t i;

	json_array_foreach(nics, i, nic) {
		const char *mac = jsonx_str(nic, "mac", NULL);
		char made[18], field[48];
		uint8_t bytes[6];

		snprintf(field, sizeof(field), "definition.nics[%zu].mac", i);
		if (!mac && (make_mac(made) < 0 || !jsonx_set(nic, "mac", json_string(made))))
			return error_set(err, ERROR_INTERNAL, "cannot make a MAC address");
		mac = jsonx_str(nic, "mac", "");
		if (parse_mac(mac, bytes) < 0)
			return error_set_field(err, field, "'%.32s' is no unicast MAC address",
			                       mac);
		for (size_t k = 0; k < i; k++)
			if (strcasecmp(mac, jsonx_str(json_array_get(nics, k), "mac", "")) == 0)
				return error_set_field(err, field, "two nics have the MAC %s", mac);
	}
	return 0;
}

/* The path a passed descriptor stands for; it must still lead to the same file. */
static int path_of_fd(int fd, const char *field, char *buf, size_t len, struct vmd_error *err)
{
	struct stat by_fd, by_path;
	char link[32];
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, buf, len - 1);
	if (n < 0)
		return error_set_errno(err, errno, "cannot tell what the descriptor is");
	buf[n] = '\0';
	if (fstat(fd, &by_fd) < 0 || stat(buf, &by_path) < 0 || by_fd.st_dev != by_path.st_dev ||
	    by_fd.st_ino != by_path.st_ino)
		return error_set_field(err, field,
		                       "the descriptor stands for no file that a path leads to");
	return 0;
}

static int resolve_path(struct call *call, json_t *holder, const char *key, const char *field,
                        struct vmd_error *err)
{
	json_t *value = json_object_get(holder, key);
	cleanup_close int fd = -EBADF;
	char resolved[4096];
	const char *path;
	int r;

	if (!value)
		return 0;
	r = call_path(call, value, field, &path, &fd, err);
	if (r < 0)
		return r;
	if (path && path[0] != '/') {
		(void)error_set_field(err, field, "'%.200s' is not an absolute path", path);
		error_hint(err, "the daemon has another working directory than you");
		return -EINVAL;
	}
	if (path)
		return 0;
	r = path_of_fd(fd, field, resolved, sizeof(resolved), err);
	if (r < 0)
		return r;
	return jsonx_set(holder, key, json_string(resolved)) ? 0 : -ENOMEM;
}

static int resolve_backing(struct call *call, json_t *definition, struct vmd_error *err)
{
	json_t *disk;
	char field[96];
	size_t i;

	json_array_foreach(json_object_get(definition, "disks"), i, disk) {
		snprintf(field, sizeof(field), "definition.disks[%zu].backing.path", i);
		if (resolve_path(call, json_object_get(disk, "backing"), "path", field, err) < 0)
			return -EINVAL;
	}
	return 0;
}

static int resolve_paths(struct call *call, json_t *definition, struct vmd_error *err)
{
	static const struct {
		const char *list, *key;
	} lists[] = { { "disks", "path" }, { "shares", "path" } };
	static const char *const boot_keys[] = { "kernel", "initrd", "iso" };
	json_t *boot = json_object_get(definition, "boot"), *entry;
	char field[96];
	size_t i;

	for (size_t k = 0; k < ARRAY_SIZE(boot_keys); k++) {
		snprintf(field, sizeof(field), "definition.boot.%s", boot_keys[k]);
		if (boot && resolve_path(call, boot, boot_keys[k], field, err) < 0)
			return -EINVAL;
	}
	for (size_t k = 0; k < ARRAY_SIZE(lists); k++) {
		json_array_foreach(json_object_get(definition, lists[k].list), i, entry) {
			snprintf(field, sizeof(field), "definition.%s[%zu].%s", lists[k].list, i,
			         lists[k].key);
			if (resolve_path(call, entry, lists[k].key, field, err) < 0)
				return -EINVAL;
		}
	}
	return resolve_backing(call, definition, err);
}

static int check_disks(struct call *call, const json_t *definition, struct vmd_error *err)
{
	json_t *disk;
	size_t i;

	json_array_foreach(json_object_get(definition, "disks"), i, disk) {
		const char *name = jsonx_str(disk, "disk", NULL);
		char field[48];

		snprintf(field, sizeof(field), "definition.disks[%zu].disk", i);
		if (name && !disk_find(call->vmd, name))
			return error_set_field(err, field, "there is no disk '%.64s'", name);
	}
	return 0;
}

static int check_owner(const struct call *call, const json_t *definition, const struct guest *old,
                       struct vmd_error *err)
{
	const json_t *owner = json_object_get(definition, "owner");
	uid_t uid;

	if (!owner)
		return 0;
	uid = definition_owner(call, definition);
	if (uid == (uid_t)-1)
		return error_set_field(err, "definition.owner", "there is no user '%.64s'",
		                       json_string_value(owner));
	if (call->role != ROLE_ADMIN && uid != call->uid && (!old || uid != old->owner)) {
		(void)error_set(err, ERROR_DENIED, "only an admin gives a guest to another owner");
		if (err)
			snprintf(err->field, sizeof(err->field), "definition.owner");
		return -EACCES;
	}
	return 0;
}

/* A descriptor for a nic must be a tap device's; it is kept, and the definition names its place. */
static int hold_tap(struct call *call, json_t *nic, const char *field, struct held_fds *held,
                    struct vmd_error *err)
{
	cleanup_close int fd = -EBADF;
	struct ifreq ifr = { 0 };
	const char *path;
	int r = call_path(call, json_object_get(nic, "ifname"), field, &path, &fd, err);

	if (r < 0)
		return r;
	if (held->n == ARRAY_SIZE(held->fds))
		return error_set_field(err, field, "a guest takes at most %zu tap descriptors",
		                       ARRAY_SIZE(held->fds));
	if (ioctl(fd, TUNGETIFF, &ifr) < 0 || !(ifr.ifr_flags & IFF_TAP))
		return error_set_field(err, field, "the descriptor is no open tap device");
	held->fds[held->n] = TAKE_FD(fd);
	if (!jsonx_set(nic, "ifname", json_pack("{s:i}", "fd", (int)held->n)))
		r = -ENOMEM;
	held->n++;
	return r;
}

static int hold_taps(struct call *call, json_t *definition, struct held_fds *held,
                     struct vmd_error *err)
{
	json_t *nic;
	size_t i;

	json_array_foreach(json_object_get(definition, "nics"), i, nic) {
		char field[48];
		int r;

		if (!json_is_object(json_object_get(nic, "ifname")))
			continue;
		snprintf(field, sizeof(field), "definition.nics[%zu].ifname", i);
		r = hold_tap(call, nic, field, held, err);
		if (r < 0)
			return r;
	}
	return 0;
}

int definition_complete(struct call *call, json_t *definition, const struct guest *old,
                        struct held_fds *held, struct vmd_error *err)
{
	/* An update that leaves the nics alone leaves their descriptors alone. */
	bool new_nics = !old || json_object_get(json_object_get(call->params, "set"), "nics");
	cleanup_json json_t *before = old ? guest_definition(old) : NULL;
	int r = complete_name(definition, old, err);

	if (r == 0)
		r = complete_uuid(definition, old, err);
	if (r == 0)
		r = check_owner(call, definition, old, err);
	if (r == 0)
		r = definition_check_files(call, definition, before, err);
	if (r == 0)
		r = complete_nics(definition, err);
	if (r == 0)
		r = resolve_paths(call, definition, err);
	if (r == 0)
		r = check_disks(call, definition, err);
	if (r == 0 && new_nics)
		r = hold_taps(call, definition, held, err);
	if (r == -ENOMEM)
		(void)error_set(err, ERROR_NO_SPACE, "out of memory");
	return r;
}

int definition_check(struct vmd *vmd, const json_t *definition, struct engine_choice *ret,
                     struct vmd_error *err)
{
	int r = host_probe_kvm(vmd, &vmd->host);

	/* Whether passt carries them decides between the engines. */
	if (r == 0 && definition_forwards_tcp(definition))
		r = host_query_qemu(&vmd->host);
	if (r < 0)
		return error_set_errno(err, -r, "cannot tell what this host can do");
	return engine_choose(&vmd->host, definition, ret, err);
}

uid_t definition_owner(const struct call *call, const json_t *definition)
{
	const char *owner = jsonx_str(definition, "owner", NULL);
	const struct passwd *pw;
	uint64_t uid;

	if (!owner)
		return call->uid;
	if (parse_u64(owner, &uid) == 0)
		return (uid_t)uid;
	pw = getpwnam(owner);
	return pw ? pw->pw_uid : (uid_t)-1;
}

int definition_take_choice(struct guest *g, const struct engine_choice *choice)
{
	char *reason = strdup(choice->reason);

	if (!reason)
		return -ENOMEM;
	free(g->engine_reason);
	g->engine_reason = reason;
	snprintf(g->engine, sizeof(g->engine), "%s", choice->engine->name);
	snprintf(g->accel, sizeof(g->accel), "%s", choice->accel);
	return 0;
}

json_t *definition_resolve(struct vmd *vmd, const json_t *definition, struct vmd_error *err)
{
	json_t *copy = json_deep_copy(definition), *entry;
	size_t i;

	json_array_foreach(json_object_get(copy, "disks"), i, entry) {
		const char *name = jsonx_str(entry, "disk", NULL);
		struct disk *d = name ? disk_find(vmd, name) : NULL;
		char field[48], path[512];

		if (!name)
			continue;
		if (!d) {
			snprintf(field, sizeof(field), "definition.disks[%zu].disk", i);
			(void)error_set_field(err, field, "there is no disk '%.64s'", name);
			json_decref(copy);
			return NULL;
		}
		disk_path(vmd, d, path, sizeof(path));
		(void)json_object_del(entry, "disk");
		if (!jsonx_set(entry, "path", json_string(path)) ||
		    !jsonx_set(entry, "format", json_string(d->format))) {
			json_decref(copy);
			copy = NULL;
			break;
		}
	}
	if (!copy)
		(void)error_set(err, ERROR_NO_SPACE, "out of memory");
	return copy;
}

/* What holder (a disk, or what it has for `backing`; or NULL) names by `path` is this file. */
static bool is_file(const json_t *holder, const struct stat *file)
{
	struct stat st;

	return stat(jsonx_str(holder, "path", ""), &st) == 0 && st.st_dev == file->st_dev &&
	       st.st_ino == file->st_ino;
}

static bool uses_file(struct vmd *vmd, const struct guest *g, const struct stat *file)
{
	cleanup_json json_t *running = json_loads(g->run->definition, 0, NULL);
	cleanup_json json_t *resolved = running ? definition_resolve(vmd, running, NULL) : NULL;
	json_t *disk;
	size_t i;

	json_array_foreach(json_object_get(resolved, "disks"), i, disk)
		if (is_file(disk, file) || is_file(json_object_get(disk, "backing"), file))
			return true;
	return false;
}

const char *definition_holder_of(struct vmd *vmd, const char *path, const json_t *definition)
{
	const char *own = jsonx_str(definition, "uuid", "");
	struct stat file;
	struct guest *g;

	if (stat(path, &file) < 0)
		return NULL;
	list_for_each(g, registry_list(vmd->guests), link)
		if (g->run && strcmp(g->uuid, own) != 0 && uses_file(vmd, g, &file))
			return g->name;
	return NULL;
}
