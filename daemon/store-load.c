/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Loading the objects at start-up: a bad file never stops the others from being loaded. */
#include "config.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/timeutil.h"
#include "daemon/store-internal.h"

struct load {
	struct store *s;
	const struct store_table *overlay;
	store_load_fn on_load;
	void *userdata;
};

static void set_aside(struct store *s, const char *path)
{
	char to[OBJECT_PATH_MAX + 32];

	snprintf(to, sizeof(to), "%s.bad-%" PRIu64, path, now_wall_us() / 1000000);
	if (renameat(s->dir_fd, path, s->dir_fd, to) < 0)
		log_error("'%s/%s' is damaged and cannot be put aside: %s", s->dir, path,
		          strerror(errno));
	else
		log_error("'%s/%s' is damaged, it was put aside as '%s'", s->dir, path, to);
}

/* The object stays as it is on disk, and nobody may write it. */
static int refuse(struct store *s, const char *kind, const char *id, const char *path, int r)
{
	char **list = reallocarray(s->refused, s->n_refused + 1, sizeof(*list));

	if (!list)
		return -ENOMEM;
	s->refused = list;
	if (asprintf(&list[s->n_refused], "%s/%s", kind, id) < 0)
		return -ENOMEM;
	s->n_refused++;
	log_error("'%s/%s' %s; it is left untouched", s->dir, path,
	          r == -EPROTONOSUPPORT ? "was written by a newer vmd" : strerror(-r));
	return 0;
}

/* 1 with the object; 0 when there is none that can be used. */
static int read_one(struct store *s, const char *kind, const char *id, const char *suffix,
                    struct object *ret)
{
	char path[OBJECT_PATH_MAX];
	int r;

	object_path(path, kind, id, suffix);
	r = object_read(s->dir_fd, path, ret);
	if (r == 0)
		return 1;
	if (r == -EBADMSG)
		set_aside(s, path);
	else if (r != -ENOENT)
		return refuse(s, kind, id, path, r) < 0 ? -ENOMEM : -ESTALE;
	return 0;
}

static int load_one(struct load *l, const char *kind, const char *id)
{
	struct store *s = l->s;
	char path[OBJECT_PATH_MAX];
	struct object o;
	int r = read_one(s, kind, id, "", &o);

	if (r == 0) {
		r = read_one(s, kind, id, ".prev", &o);
		if (r > 0)
			log_warning("'%s/%s/%s': its generation %" PRIu64 " is used", s->dir, kind,
			            id, o.generation);
	}
	if (r < 0)
		return r == -ENOMEM ? r : 0;
	if (r == 0) {
		/* A directory that was made for an object that never came to be. */
		snprintf(path, sizeof(path), "%s/%s", kind, id);
		(void)unlinkat(s->dir_fd, path, AT_REMOVEDIR);
		return 0;
	}
	s->next_seq = MAX_OF(s->next_seq, o.generation + 1);
	if (l->on_load)
		l->on_load(l->userdata, kind, id, o.text, o.len);
	object_deinit(&o);
	return 0;
}

static int load_kind(struct load *l, const char *kind)
{
	int fd = openat(l->s->dir_fd, kind, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	cleanup_dir DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *e;
	int r = 0;

	if (!dir) {
		r = errno == ENOENT ? 0 : -errno;
		if (fd >= 0)
			close(fd);
		return r;
	}
	while (r == 0 && (e = readdir(dir)))
		if (object_id_ok(e->d_name) &&
		    !(l->overlay && store_table_find(l->overlay, kind, e->d_name)))
			r = load_one(l, kind, e->d_name);
	return r;
}

/* The object files could not be brought up to date: the journal's word counts. */
static int load_overlay(struct load *l)
{
	for (size_t i = 0; i < l->overlay->n; i++) {
		const struct store_entry *e = &l->overlay->entries[i];
		cleanup_free char *text = e->text ? strndup(e->text, e->len) : NULL;

		if (e->text && !text)
			return -ENOMEM;
		if (text && l->on_load)
			l->on_load(l->userdata, e->kind, e->id, text, e->len);
	}
	return 0;
}

int store_load(struct store *s, const struct store_table *overlay, store_load_fn on_load,
               void *userdata)
{
	struct load l = { .s = s, .overlay = overlay, .on_load = on_load, .userdata = userdata };
	const char *kind;
	int r = 0;

	for (size_t i = 0; r == 0 && (kind = object_kind(i)); i++)
		r = load_kind(&l, kind);
	return r == 0 && overlay ? load_overlay(&l) : r;
}
