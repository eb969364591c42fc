/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/helpers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/jsonx.h"
#include "daemon/definition-parts.h"
#include "daemon/host.h"
#include "daemon/qemu-cmdline.h"

#define HELPER_FD        3 /* the socket in every helper with one */
#define STORAGE_GRACE_MS 5000

int launch_add_socket(struct launch *l, size_t *ret_index)
{
	int pair[2], index;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	index = launch_add_fd(l, pair[0]);
	if (index < 0) {
		close(pair[1]);
		return index;
	}
	*ret_index = (size_t)index;
	return pair[1];
}

struct launch_proc *launch_add_proc(struct launch *l, const char *name, json_t *argv,
                                    struct vmd_error *err)
{
	struct launch_proc *proc = &l->procs[l->n_procs];

	if (l->n_procs == LAUNCH_MAX_PROCS) {
		json_decref(argv);
		(void)error_set(err, ERROR_UNSUPPORTED, "the guest needs more than %d processes",
		                LAUNCH_MAX_PROCS);
		return NULL;
	}
	*proc = (struct launch_proc){ .name = strdup(name), .argv = argv };
	l->n_procs++;
	if (proc->name && argv)
		return proc;
	(void)error_set_errno(err, ENOMEM, "cannot start '%s'", name);
	return NULL;
}

int launch_proc_add_fd(struct launch_proc *proc, size_t index, int target)
{
	if (proc->n_fds == LAUNCH_MAX_FDS)
		return -E2BIG;
	proc->fds[proc->n_fds].source = (int)index;
	proc->fds[proc->n_fds++].target = target;
	return 0;
}

/* Appends a helper whose descriptor HELPER_FD is fd (taken). */
static int add_helper(struct launch *l, const char *name, json_t *argv, int fd,
                      struct vmd_error *err)
{
	int index = launch_add_fd(l, fd);
	struct launch_proc *proc;

	if (index < 0) {
		json_decref(argv);
		(void)error_set(err, ERROR_UNSUPPORTED, "the guest needs more than %d descriptors",
		                LAUNCH_MAX_FDS);
		return index;
	}
	proc = launch_add_proc(l, name, argv, err);
	return proc ? launch_proc_add_fd(proc, (size_t)index, HELPER_FD) : -E2BIG;
}

static void append_option(json_t *argv, const char *option, const char *value)
{
	json_array_append_new(argv, json_string(option));
	json_array_append_new(argv, json_string(value));
}

/* passt takes one address for each -t or -u, so each forward gets an option of its own. */
static json_t *passt_arguments(const char *path, const json_t *forwards)
{
	json_t *argv = json_pack("[s, s, s, s, s]", path, "--foreground", "--quiet", "--fd", "3");
	bool any[2] = { false, false };
	const json_t *entry;
	size_t i;

	json_array_foreach(forwards, i, entry) {
		struct forward f;
		char text[64];

		if (parse_forward(json_string_value(entry), &f) < 0)
			continue; /* qemu_check() has refused it */
		any[f.udp] = true;
		snprintf(text, sizeof(text), "%s%s%u:%u", f.address, f.address[0] ? "/" : "",
		         f.host_port, f.guest_port);
		append_option(argv, f.udp ? "-u" : "-t", text);
	}
	if (!any[false])
		append_option(argv, "-t", "none");
	if (!any[true])
		append_option(argv, "-u", "none");
	return argv;
}

int helper_add_passt(struct launch *l, const struct host_facts *host, const json_t *nic,
                     size_t index, size_t *ret_index, struct vmd_error *err)
{
	int fd = launch_add_socket(l, ret_index);
	char name[32];

	if (fd < 0)
		return error_set_errno(err, -fd, "cannot make a socket for passt");
	snprintf(name, sizeof(name), "passt%zu", index);
	return add_helper(l, name, passt_arguments(host->passt, json_object_get(nic, "forward")),
	                  fd, err);
}

/* A connected socket for the engine and the listening one for its helper, by way of a name that is
 * gone again at once. */
static int listen_and_connect(const char *dir, const char *name, size_t index, int *ret_listen)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	cleanup_close int server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cleanup_close int client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int n = snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s%zu.sock", dir, name,
	                 index);
	int r = 0;

	if (server < 0 || client < 0)
		return -EMFILE;
	if (n < 0 || (size_t)n >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	(void)unlink(address.sun_path);
	if (bind(server, (struct sockaddr *)&address, sizeof(address)) < 0)
		return -errno;
	if (listen(server, 1) < 0 ||
	    connect(client, (struct sockaddr *)&address, sizeof(address)) < 0)
		r = -errno;
	(void)unlink(address.sun_path);
	if (r < 0)
		return r;
	*ret_listen = TAKE_FD(server);
	return TAKE_FD(client);
}

static json_t *virtiofsd_arguments(const char *program, const json_t *share)
{
	json_t *argv = json_pack("[s, s, s, s+, s, s]", program, "--fd=3", "-o",
	                         "source=", jsonx_str(share, "path", ""), "-o", "cache=auto");

	if (jsonx_bool(share, "readonly", false))
		json_array_append_new(argv, json_string("--readonly"));
	return argv;
}

int helper_add_virtiofsd(struct launch *l, const struct host_facts *host, const json_t *share,
                         size_t index, const char *runtime_dir, size_t *ret_index,
                         struct vmd_error *err)
{
	int server = -EBADF, client, r;
	char name[32], field[64];

	snprintf(field, sizeof(field), "definition.shares[%zu].path", index);
	if (strchr(jsonx_str(share, "path", ""), ','))
		return error_set_field(err, field, "virtiofsd takes no path with a comma");
	client = listen_and_connect(runtime_dir, "share", index, &server);
	if (client < 0)
		return error_set_errno(err, -client, "cannot make a socket for virtiofsd");
	r = launch_add_fd(l, client);
	if (r < 0) {
		close(server);
		return error_set_errno(err, -r, "cannot start virtiofsd");
	}
	*ret_index = (size_t)r;
	snprintf(name, sizeof(name), "virtiofsd%zu", index);
	return add_helper(l, name, virtiofsd_arguments(host->virtiofsd, share), server, err);
}

int helper_add_swtpm(struct launch *l, const struct host_facts *host, const char *dir,
                     size_t *ret_index, struct vmd_error *err)
{
	int fd;

	if (strchr(dir, ','))
		return error_set(err, ERROR_UNSUPPORTED, "swtpm takes no path with a comma: '%s'",
		                 dir);
	fd = launch_add_socket(l, ret_index);
	if (fd < 0)
		return error_set_errno(err, -fd, "cannot make a socket for swtpm");
	return add_helper(l, "swtpm",
	                  json_pack("[s, s, s, s, s+, s, s, s, s, s]", host->swtpm, "socket",
	                            "--tpm2", "--tpmstate", "dir=", dir, "--ctrl",
	                            "type=unixio,clientfd=3", "--flags", "startup-clear",
	                            "--terminate"),
	                  fd, err);
}

int helper_add_export(struct launch *l, const char *runtime_dir, size_t index, size_t *ret_engine,
                      size_t *ret_storage, struct vmd_error *err)
{
	int server = -EBADF, client, engine, storage;

	client = listen_and_connect(runtime_dir, "disk", index, &server);
	if (client < 0)
		return error_set_errno(err, -client, "cannot make a socket for disk %zu", index);
	engine = launch_add_fd(l, client);
	storage = launch_add_fd(l, server);
	if (engine < 0 || storage < 0)
		return error_set(err, ERROR_UNSUPPORTED, "the guest needs more than %d descriptors",
		                 LAUNCH_MAX_FDS);
	*ret_engine = (size_t)engine;
	*ret_storage = (size_t)storage;
	return 0;
}

struct launch_proc *helper_add_storage(struct launch *l, json_t *argv, struct vmd_error *err)
{
	struct launch_proc *proc = launch_add_proc(l, "storage", argv, err);

	if (!proc)
		return NULL;
	/* It reads tables that guests write. It is told when its guest has ended, and brings what
	 * is not in the images yet to the disk. */
	proc->jail = true;
	proc->grace_ms = STORAGE_GRACE_MS;
	return proc;
}
