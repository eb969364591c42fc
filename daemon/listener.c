/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A socket of our own is bound under a temporary name, given its mode, and renamed into place, so
 * that nobody ever connects to one with a wider mode. When descriptors run out a reserved one is
 * given up for a moment to accept, tell the client and close: a connection that stayed in the
 * queue would wake us for ever.
 */
#include "config.h"

#include "daemon/listener.h"

#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/strbuf.h"
#include "common/timeutil.h"
#include "daemon/auth.h"
#include "daemon/peer.h"
#include "daemon/rpc-private.h"
#include "daemon/vmd.h"

#define BACKLOG         1024
#define ACCEPT_AT_ONCE  64
#define LOG_INTERVAL_US 1000000u
#define RETRY_S         0.1

struct endpoint {
	struct listener *listener;
	ev_io io;
	int fd;
	bool read_only;
	bool own; /* made by us: removed at the end */
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
};

struct listener {
	struct vmd *vmd;
	struct auth_groups groups;
	struct endpoint ends[4];
	size_t n_ends;
	int reserve;      /* given up when descriptors run out */
	ev_timer retry;   /* accepting starts again */
	uint64_t told_us; /* last warning */
};

static bool may_tell(struct listener *l)
{
	uint64_t now = now_monotonic_us();

	if (l->told_us && now - l->told_us < LOG_INTERVAL_US)
		return false;
	l->told_us = now;
	return true;
}

/* One line for a connection that is not taken; it is closed after. */
static void refuse(struct listener *l, int fd, const struct vmd_error *err)
{
	cleanup_strbuf struct strbuf out = STRBUF_INIT;

	strbuf_append_str(&out, "{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":");
	rpc_format_error(&out, err, NULL);
	strbuf_append_str(&out, "}\n");
	if (!strbuf_failed(&out) && send(fd, out.data, out.len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		log_debug("Cannot tell a client why it is refused: %s", strerror(errno));
	if (may_tell(l))
		log_warning("Refused a connection: %s", err->message);
	close(fd);
}

static void admit(struct endpoint *end, int fd)
{
	struct listener *l = end->listener;
	struct vmd_error err = VMD_ERROR_INIT;
	struct auth_peer who = { .uid = (uid_t)-1 };
	int r = auth_of_socket(&l->groups, fd, &who);

	if (r == -EACCES) {
		(void)error_set(&err, ERROR_DENIED, "user %u has no role here", who.uid);
		error_hint(&err, "the groups in vmd.conf give roles");
	} else if (r < 0) {
		(void)error_set_errno(&err, -r, "cannot tell who is calling");
	} else {
		r = peers_admit(rpc_peers(l->vmd->rpc), who.uid, &err);
	}
	if (r < 0) {
		refuse(l, fd, &err);
		return;
	}
	if (end->read_only)
		who.role = ROLE_VIEWER;
	if (peers_add(rpc_peers(l->vmd->rpc), fd, &who) < 0 && may_tell(l))
		log_warning("Cannot take a connection: out of memory");
}

static void stop_accepting(struct listener *l)
{
	for (size_t i = 0; i < l->n_ends; i++)
		ev_io_stop(l->vmd->loop, &l->ends[i].io);
	ev_now_update(l->vmd->loop);
	ev_timer_set(&l->retry, RETRY_S, 0.);
	ev_timer_start(l->vmd->loop, &l->retry);
}

static void on_retry(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct listener *l = container_of(w, struct listener, retry);

	(void)revents;
	if (l->reserve < 0)
		l->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
	for (size_t i = 0; i < l->n_ends; i++)
		ev_io_start(loop, &l->ends[i].io);
}

/* No descriptor left: true when a connection was answered and closed with the reserved one. */
static bool accept_to_refuse(struct endpoint *end)
{
	struct listener *l = end->listener;
	struct vmd_error err = VMD_ERROR_INIT;
	int fd;

	if (l->reserve < 0)
		return false;
	cleanup_close_p(&l->reserve);
	fd = accept4(end->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd >= 0) {
		(void)error_set(&err, ERROR_NO_SPACE, "the daemon has no file descriptor left");
		refuse(l, fd, &err);
	}
	l->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
	return fd >= 0;
}

static void on_accept(struct ev_loop *loop, ev_io *w, int revents)
{
	struct endpoint *end = container_of(w, struct endpoint, io);

	(void)loop;
	(void)revents;
	for (int i = 0; i < ACCEPT_AT_ONCE; i++) {
		int fd = accept4(end->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd >= 0) {
			admit(end, fd);
			continue;
		}
		if (errno == EINTR || errno == ECONNABORTED)
			continue;
		if (errno == EAGAIN)
			return;
		if ((errno == EMFILE || errno == ENFILE) && accept_to_refuse(end))
			continue;
		if (may_tell(end->listener))
			log_warning("Cannot accept a connection: %s", strerror(errno));
		stop_accepting(end->listener);
		return;
	}
}

/* --- making sockets --- */

static int check_directory(const char *path, struct vmd_error *err)
{
	char copy[sizeof(((struct endpoint *)0)->path)];
	const char *dir;
	struct stat st;

	snprintf(copy, sizeof(copy), "%s", path);
	dir = dirname(copy);
	if (stat(dir, &st) < 0)
		return error_set_errno(err, errno, "socket directory '%s'", dir);
	if (!S_ISDIR(st.st_mode))
		return error_set(err, ERROR_INVALID, "'%s' is no directory", dir);
	if (st.st_uid != 0 && st.st_uid != geteuid())
		return error_set(err, ERROR_DENIED, "socket directory '%s' belongs to user %u", dir,
		                 st.st_uid);
	if (!(st.st_mode & (S_IWGRP | S_IWOTH)))
		return 0;
	(void)error_set(err, ERROR_DENIED, "socket directory '%s' can be written to by others",
	                dir);
	error_hint(err, "chmod go-w '%.128s', or choose another directory", dir);
	return -EACCES;
}

/* Makes sure that the path is free or holds a dead socket. */
static int check_path(const char *path, struct vmd_error *err)
{
	cleanup_close int fd = -EBADF;
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct stat st;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : error_set_errno(err, errno, "socket '%s'", path);
	if (!S_ISSOCK(st.st_mode))
		return error_set(err, ERROR_EXISTS, "'%s' exists and is no socket", path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return error_set_errno(err, errno, "socket '%s'", path);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0 || errno == EAGAIN)
		return error_set(err, ERROR_BUSY, "another daemon answers on '%s'", path);
	return 0;
}

/* The mode of a socket by the groups that exist; *ret_gid AUTH_NO_GROUP: leave the group. */
static mode_t socket_mode(const struct listener *l, gid_t *ret_gid)
{
	gid_t only = AUTH_NO_GROUP;

	*ret_gid = AUTH_NO_GROUP;
	if (l->vmd->config.session)
		return 0600;
	for (size_t i = 0; i < ARRAY_SIZE(l->groups.gid); i++) {
		if (l->groups.gid[i] == AUTH_NO_GROUP)
			continue;
		if (only != AUTH_NO_GROUP && only != l->groups.gid[i])
			return 0666;
		only = l->groups.gid[i];
	}
	*ret_gid = only;
	return only == AUTH_NO_GROUP ? 0600 : 0660;
}

static int set_mode(const struct listener *l, const char *path)
{
	gid_t gid;
	mode_t mode = socket_mode(l, &gid);

	if (gid != AUTH_NO_GROUP && lchown(path, (uid_t)-1, gid) < 0) {
		log_warning("Cannot give socket '%s' to group %u: %s", path, gid, strerror(errno));
		mode = 0600;
	}
	return chmod(path, mode) < 0 ? -errno : 0;
}

static int bind_at(const struct listener *l, int fd, const char *path, struct vmd_error *err)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	mode_t mask;
	int r;

	r = snprintf(addr.sun_path, sizeof(addr.sun_path), "%s.new", path);
	if (r < 0 || (size_t)r >= sizeof(addr.sun_path))
		return error_set(err, ERROR_INVALID, "socket path '%s' is too long", path);
	if (unlink(addr.sun_path) < 0 && errno != ENOENT)
		return error_set_errno(err, errno, "socket '%s'", addr.sun_path);
	mask = umask(0177);
	r = bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0 ? -errno : 0;
	umask(mask);
	if (r == 0 && listen(fd, BACKLOG) < 0)
		r = -errno;
	if (r == 0)
		r = set_mode(l, addr.sun_path);
	if (r == 0 && rename(addr.sun_path, path) < 0)
		r = -errno;
	if (r < 0) {
		(void)unlink(addr.sun_path);
		return error_set_errno(err, -r, "socket '%s'", path);
	}
	return 0;
}

static struct endpoint *add_endpoint(struct listener *l, int fd, bool read_only)
{
	struct endpoint *end = &l->ends[l->n_ends++];

	end->listener = l;
	end->fd = fd;
	end->read_only = read_only;
	ev_io_init(&end->io, on_accept, fd, EV_READ);
	ev_io_start(l->vmd->loop, &end->io);
	return end;
}

static int make_socket(struct listener *l, const char *path, bool read_only, struct vmd_error *err)
{
	cleanup_close int fd = -EBADF;
	struct endpoint *end;
	int r;

	if (strlen(path) + sizeof(".new") > sizeof(end->path))
		return error_set(err, ERROR_INVALID, "socket path '%s' is too long", path);
	r = check_directory(path, err);
	if (r == 0)
		r = check_path(path, err);
	if (r < 0)
		return r;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return error_set_errno(err, errno, "socket '%s'", path);
	r = bind_at(l, fd, path, err);
	if (r < 0)
		return r;
	end = add_endpoint(l, TAKE_FD(fd), read_only);
	end->own = true;
	snprintf(end->path, sizeof(end->path), "%s", path);
	return 0;
}

/* vmd.sock -> vmd-ro.sock */
static void read_only_path(const char *path, char *out, size_t len)
{
	size_t n = strlen(path);

	if (n > 5 && strcmp(path + n - 5, ".sock") == 0)
		snprintf(out, len, "%.*s-ro.sock", (int)(n - 5), path);
	else
		snprintf(out, len, "%s-ro", path);
}

static int make_sockets(struct listener *l, struct vmd_error *err)
{
	struct config *c = &l->vmd->config;
	char path[sizeof(c->socket) + 16];
	int r;

	if (!c->socket[0] && (size_t)snprintf(c->socket, sizeof(c->socket), "%s/vmd.sock",
	                                      c->runtime_dir) >= sizeof(c->socket))
		return error_set(err, ERROR_INVALID, "runtime directory '%s' is too long",
		                 c->runtime_dir);
	r = make_socket(l, c->socket, false, err);
	if (r < 0)
		return r;
	read_only_path(c->socket, path, sizeof(path));
	return make_socket(l, path, true, err);
}

/*
 * A passed socket is the read-only one by its name, or by the path it is bound to: a unit with two
 * sockets and no FileDescriptorName= gives both the name of the unit.
 */
static bool is_read_only(const char *name, const char *path)
{
	static const char suffix[] = "-ro.sock";
	size_t len = strlen(path);

	return (name && strncmp(name, "vmd-ro", 6) == 0) ||
	       (len >= sizeof(suffix) - 1 &&
	        strcmp(path + len - (sizeof(suffix) - 1), suffix) == 0);
}

static void take_one(struct listener *l, int fd, const char *name)
{
	struct config *c = &l->vmd->config;
	struct sockaddr_un addr = { 0 };
	socklen_t len = sizeof(addr) - 1; /* so that a path always ends */
	bool read_only;

	(void)fd_set_nonblock(fd, 1);
	(void)fd_set_cloexec(fd, 1);
	if (getsockname(fd, (struct sockaddr *)&addr, &len) < 0)
		addr.sun_path[0] = '\0';
	read_only = is_read_only(name, addr.sun_path);
	(void)add_endpoint(l, fd, read_only);
	if (!read_only && addr.sun_path[0]) /* what daemon.info tells */
		snprintf(c->socket, sizeof(c->socket), "%s", addr.sun_path);
}

/* Number of sockets that the service manager passed, or negative. */
static int take_passed(struct listener *l, struct vmd_error *err)
{
	char **names = NULL;
	int n = sd_listen_fds_with_names(1, &names);

	if (n < 0)
		return error_set_errno(err, -n, "sockets of the service manager");
	for (int i = 0; i < n; i++) {
		int fd = SD_LISTEN_FDS_START + i;
		cleanup_free char *name = names ? names[i] : NULL;

		if (l->n_ends == ARRAY_SIZE(l->ends) ||
		    sd_is_socket_unix(fd, SOCK_STREAM, 1, NULL, 0) <= 0) {
			log_warning("Socket '%s' of the service manager is none to listen on",
			            name ? name : "?");
			close(fd);
			continue;
		}
		take_one(l, fd, name);
	}
	free(names);
	return (int)l->n_ends;
}

int listener_new(struct vmd *vmd, struct vmd_error *err)
{
	struct listener *l = calloc(1, sizeof(*l));
	int r;

	if (!l)
		return error_set(err, ERROR_NO_SPACE, "out of memory");
	l->vmd = vmd;
	ev_init(&l->retry, on_retry);
	l->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
	auth_groups_load(&l->groups, &vmd->config);
	r = take_passed(l, err);
	if (r == 0)
		r = make_sockets(l, err);
	if (r < 0) {
		listener_free(l);
		return r;
	}
	vmd->listener = l;
	return 0;
}

void listener_reload(struct vmd *vmd)
{
	struct listener *l = vmd->listener;

	if (!l)
		return;
	auth_groups_load(&l->groups, &vmd->config);
	for (size_t i = 0; i < l->n_ends; i++)
		if (l->ends[i].own && set_mode(l, l->ends[i].path) < 0)
			log_warning("Cannot set the mode of socket '%s'", l->ends[i].path);
}

void listener_free(struct listener *l)
{
	if (!l)
		return;
	ev_timer_stop(l->vmd->loop, &l->retry);
	for (size_t i = 0; i < l->n_ends; i++) {
		struct endpoint *end = &l->ends[i];

		ev_io_stop(l->vmd->loop, &end->io);
		if (end->own)
			(void)unlink(end->path);
		cleanup_close_p(&end->fd);
	}
	cleanup_close_p(&l->reserve);
	l->vmd->listener = NULL;
	free(l);
}
