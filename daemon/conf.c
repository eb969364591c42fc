/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One table says which keys exist, what they hold and where that goes. Each file is parsed into a
 * copy, and only when every file was right does the copy replace the configuration in use.
 */
#include "config.h"

#include "daemon/conf.h"

#include <dirent.h>
#include <fcntl.h>
#include <ini.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/log.h"
#include "common/parse.h"

#define FILE_MAX_BYTES 65536
#define LINE_MAX_BYTES 199 /* libinih reads lines into 200 bytes and splits longer ones */

enum key_type {
	KEY_LOG_LEVEL,
	KEY_GROUP,       /* char[64]; empty: nobody */
	KEY_COUNT,       /* unsigned */
	KEY_DURATION_MS, /* unsigned */
	KEY_SIZE,        /* uint64_t */
};

struct key {
	const char *section, *name;
	enum key_type type;
	size_t offset;
	uint64_t min, max, preset;
	const char *preset_text;
};

#define KEY(section_, name_, type_, field_, min_, max_, preset_)                     \
	{                                                                            \
		.section = section_, .name = name_, .type = type_,                   \
		.offset = offsetof(struct config, field_), .min = min_, .max = max_, \
		.preset = preset_                                                    \
	}
#define GROUP(name_, preset_)                                                    \
	{                                                                        \
		.section = "daemon", .name = #name_, .type = KEY_GROUP,          \
		.offset = offsetof(struct config, name_), .preset_text = preset_ \
	}
#define KIB     ((uint64_t)1024)
#define MIB     (1024 * KIB)
#define GIB     (1024 * MIB)
#define HOUR_MS ((uint64_t)3600 * 1000)

static const struct key keys[] = {
	KEY("daemon", "log_level", KEY_LOG_LEVEL, log_level, 0, 0, LOG_INFO),
	GROUP(viewer_group, "vmd-viewer"),
	GROUP(operator_group, "vmd-operator"),
	GROUP(admin_group, "vmd-admin"),
	KEY("limits", "max_connections", KEY_COUNT, max_connections, 1, 100000, 2000),
	KEY("limits", "max_connections_per_uid", KEY_COUNT, max_connections_per_uid, 1, 100000,
	    1500),
	KEY("limits", "max_batch", KEY_COUNT, max_batch, 1, 10000, 1000),
	KEY("limits", "max_subscriptions", KEY_COUNT, max_subscriptions, 1, 1000, 16),
	KEY("limits", "max_message", KEY_SIZE, max_message_bytes, 4 * KIB, 64 * MIB, MIB),
	KEY("limits", "max_output", KEY_SIZE, max_output_bytes, 64 * KIB, GIB, 16 * MIB),
	KEY("limits", "message_timeout", KEY_DURATION_MS, message_timeout_ms, 100, HOUR_MS, 30000),
	KEY("guest", "stop_timeout", KEY_DURATION_MS, stop_timeout_ms, 0, 24 * HOUR_MS, 90000),
	KEY("guest", "health_interval", KEY_DURATION_MS, health_interval_ms, 0, HOUR_MS, 10000),
	KEY("guest", "qmp_timeout", KEY_DURATION_MS, qmp_timeout_ms, 100, HOUR_MS, 10000),
	KEY("guest", "console_ring", KEY_SIZE, console_ring_bytes, 256 * KIB, 64 * MIB, 256 * KIB),
	KEY("guest", "console_log", KEY_SIZE, console_log_bytes, 64 * KIB, 16 * GIB, 8 * MIB),
	KEY("guest", "console_log_files", KEY_COUNT, console_log_files, 1, 100, 3),
	KEY("events", "ring", KEY_SIZE, event_ring_bytes, 64 * KIB, 16 * GIB, 16 * MIB),
};

/* One parse of one file. */
struct reader {
	struct config *config;
	const char *path;
	struct vmd_error *err;
	bool seen[ARRAY_SIZE(keys)];
};

static void *key_target(struct config *c, const struct key *k)
{
	return (char *)c + k->offset;
}

void config_defaults(struct config *c)
{
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		void *target = key_target(c, &keys[i]);

		switch (keys[i].type) {
		case KEY_LOG_LEVEL:
			*(int *)target = (int)keys[i].preset;
			break;
		case KEY_GROUP:
			snprintf(target, sizeof(c->admin_group), "%s", keys[i].preset_text);
			break;
		case KEY_COUNT:
		case KEY_DURATION_MS:
			*(unsigned *)target = (unsigned)keys[i].preset;
			break;
		case KEY_SIZE:
			*(uint64_t *)target = keys[i].preset;
			break;
		}
	}
}

/* What getgrnam(3) can find: the characters that groupadd(8) allows. */
static bool is_group_name(const char *text)
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				      "0123456789_-.";

	return text[0] != '-' && strlen(text) < sizeof(((struct config *)NULL)->admin_group) &&
	       strspn(text, allowed) == strlen(text);
}

/* Parses value into *target; a sentence of what is wanted instead when it is wrong, else NULL. */
static const char *key_parse(const struct key *k, const char *value, void *target)
{
	uint64_t number = 0;
	int r = 0;

	switch (k->type) {
	case KEY_LOG_LEVEL:
		r = log_level_from_string(value);
		if (r < 0)
			return "one of err, warning, notice, info, debug";
		*(int *)target = r;
		return NULL;
	case KEY_GROUP:
		if (!is_group_name(value))
			return "the name of a group, or nothing";
		snprintf(target, sizeof(((struct config *)NULL)->admin_group), "%s", value);
		return NULL;
	case KEY_COUNT:
		r = parse_u64(value, &number);
		if (r < 0 || number < k->min || number > k->max)
			return "a whole number";
		*(unsigned *)target = (unsigned)number;
		return NULL;
	case KEY_DURATION_MS:
		r = parse_duration_ms(value, &number);
		if (r < 0 || number < k->min || number > k->max)
			return "a time such as 500ms, 90s or 5m";
		*(unsigned *)target = (unsigned)number;
		return NULL;
	case KEY_SIZE:
		r = parse_size(value, &number);
		if (r < 0 || number < k->min || number > k->max)
			return "a size such as 256K or 16M";
		*(uint64_t *)target = number;
		return NULL;
	}
	return "nothing";
}

static void set_value_error(struct reader *r, const struct key *k, const char *value,
                            const char *wanted)
{
	char min[32], max[32];

	error_set(r->err, ERROR_INVALID, "%s: [%s] %s: '%.60s' is not %s", r->path, k->section,
	          k->name, value, wanted);
	if (k->type == KEY_COUNT)
		error_hint(r->err, "it must be between %llu and %llu", (unsigned long long)k->min,
		           (unsigned long long)k->max);
	else if (k->type == KEY_DURATION_MS)
		error_hint(r->err, "it must be between %llums and %llus",
		           (unsigned long long)k->min, (unsigned long long)k->max / 1000);
	else if (k->type == KEY_SIZE)
		error_hint(r->err, "it must be between %s and %s",
		           format_size(min, sizeof(min), k->min),
		           format_size(max, sizeof(max), k->max));
}

/* Names the nearest key of any section, so that a typo or a wrong section is seen at once. */
static void set_unknown_error(struct reader *r, const char *section, const char *name)
{
	const struct key *best = NULL;
	unsigned best_distance = 4;

	error_set(r->err, ERROR_INVALID, "%s: [%.60s] %.60s: no such key", r->path, section, name);
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		unsigned distance = word_distance(name, keys[i].name, best_distance);

		if (distance < best_distance) {
			best_distance = distance;
			best = &keys[i];
		}
	}
	if (best)
		error_hint(r->err, "did you mean %s in [%s]?", best->name, best->section);
}

/* libinih's handler: 1 to go on, 0 for an error in this line. */
static int on_key(void *userdata, const char *section, const char *name, const char *value)
{
	struct reader *r = userdata;

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		const struct key *k = &keys[i];
		const char *wanted;

		if (strcmp(section, k->section) != 0 || strcmp(name, k->name) != 0)
			continue;
		if (r->seen[i]) {
			error_set(r->err, ERROR_INVALID, "%s: [%s] %s is given twice", r->path,
			          section, name);
			return 0;
		}
		r->seen[i] = true;
		wanted = key_parse(k, value, key_target(r->config, k));
		if (wanted)
			set_value_error(r, k, value, wanted);
		return wanted == NULL;
	}
	set_unknown_error(r, section, name);
	return 0;
}

/* Refuses what somebody else could have written. */
static int check_owner(int fd, const char *path, mode_t type, struct vmd_error *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return error_set_errno(err, errno, "%s", path);
	if ((st.st_mode & S_IFMT) != type)
		return error_set(err, ERROR_INVALID, "%s: not a %s", path,
		                 type == S_IFDIR ? "directory" : "regular file");
	if (st.st_uid != 0 && st.st_uid != geteuid())
		return error_set(err, ERROR_DENIED, "%s: owned by uid %u, not by root or us", path,
		                 st.st_uid);
	if (st.st_mode & 022) {
		error_set(err, ERROR_DENIED, "%s: writable by others", path);
		error_hint(err, "chmod go-w %s", path);
		return -EACCES;
	}
	return 0;
}

/* Bytes that libinih would read as something else than what was written. */
static int check_text(const char *text, size_t len, const char *path, struct vmd_error *err)
{
	unsigned line = 1;

	if (memchr(text, '\0', len))
		return error_set(err, ERROR_INVALID, "%s: holds a zero byte", path);
	while (*text) {
		size_t n = strcspn(text, "\n");

		if (n >= LINE_MAX_BYTES)
			return error_set(err, ERROR_INVALID, "%s:%u: line is longer than %d bytes",
			                 path, line, LINE_MAX_BYTES - 1);
		text += n + (text[n] == '\n');
		line++;
	}
	return 0;
}

static int read_one(struct config *c, int dir_fd, const char *name, const char *path,
                    struct vmd_error *err)
{
	cleanup_close int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct reader reader = { .config = c, .path = path, .err = err };
	cleanup_free char *text = NULL;
	ssize_t n;
	int r;

	if (fd < 0)
		return errno == ENOENT ? -ENOENT : error_set_errno(err, errno, "%s", path);
	r = check_owner(fd, path, S_IFREG, err);
	if (r < 0)
		return r;
	text = malloc(FILE_MAX_BYTES + 2);
	if (!text)
		return error_set_errno(err, ENOMEM, "%s", path);
	n = fd_read_all(fd, text, FILE_MAX_BYTES + 1);
	if (n < 0)
		return error_set_errno(err, (int)-n, "%s", path);
	if (n > FILE_MAX_BYTES)
		return error_set(err, ERROR_INVALID, "%s: larger than 64 KiB", path);
	text[n] = '\0';
	r = check_text(text, (size_t)n, path, err);
	if (r < 0)
		return r;
	r = ini_parse_string(text, on_key, &reader);
	if (r == 0)
		return 0;
	error_set(err, r < 0 ? ERROR_INTERNAL : ERROR_INVALID,
	          "%s: not 'key = value' in a [section]", path);
	error_prefix(err, "line %d", r > 0 ? r : 0);
	return -EINVAL;
}

static int is_drop_in(const struct dirent *entry)
{
	size_t len = strlen(entry->d_name);

	return entry->d_name[0] != '.' && len > 5 && !strcmp(entry->d_name + len - 5, ".conf");
}

/* By bytes: the order must not depend on the locale. */
static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static int read_drop_ins(struct config *c, struct vmd_error *err)
{
	char dir_path[sizeof(c->config_file) + 2], path[sizeof(dir_path) + 256];
	cleanup_close int dir_fd = -EBADF;
	struct dirent **entries = NULL;
	int n, r;

	snprintf(dir_path, sizeof(dir_path), "%s.d", c->config_file);
	dir_fd = open(dir_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir_fd < 0)
		return errno == ENOENT ? 0 : error_set_errno(err, errno, "%s", dir_path);
	r = check_owner(dir_fd, dir_path, S_IFDIR, err);
	if (r < 0)
		return r;
	n = scandirat(dir_fd, ".", &entries, is_drop_in, by_name);
	if (n < 0)
		return error_set_errno(err, errno, "%s", dir_path);
	for (int i = 0; i < n; i++) {
		snprintf(path, sizeof(path), "%s/%s", dir_path, entries[i]->d_name);
		if (r == 0)
			r = read_one(c, dir_fd, entries[i]->d_name, path, err);
		if (r == -ENOENT) /* removed since it was listed */
			r = 0;
		free(entries[i]);
	}
	free(entries);
	return r;
}

int config_read(struct config *c, struct vmd_error *err)
{
	struct config fresh = *c;
	struct vmd_error scratch = VMD_ERROR_INIT;
	int r;

	if (!err)
		err = &scratch;
	config_defaults(&fresh);
	r = read_one(&fresh, AT_FDCWD, fresh.config_file, fresh.config_file, err);
	if (r < 0 && r != -ENOENT)
		return r;
	r = read_drop_ins(&fresh, err);
	if (r < 0)
		return r;
	*c = fresh;
	return 0;
}
