/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/ram.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "common/cleanup.h"
#include "common/fsutil.h"
#include "common/jsonx.h"
#include "common/log.h"
#include "daemon/guest-run.h"
#include "daemon/job.h"
#include "daemon/vmd.h"

#define ROOM_BYTES (1 << 20) /* more than the engine writes at once */

/* Of the first most bytes. */
static int hash_fd(int fd, uint64_t most, XXH3_state_t *state, uint64_t *ret_bytes)
{
	enum {
		CHUNK = 1 << 20
	};
	cleanup_free char *buf = malloc(CHUNK);
	uint64_t total = 0;

	if (!buf)
		return -ENOMEM;
	while (total < most) {
		ssize_t n = read(fd, buf, (size_t)MIN_OF(most - total, (uint64_t)CHUNK));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		XXH3_64bits_update(state, buf, (size_t)n);
		total += (uint64_t)n;
	}
	*ret_bytes = total;
	return 0;
}

static int sum_fd(int fd, uint64_t most, uint64_t *ret_bytes, char ret_checksum[17])
{
	XXH3_state_t *state = XXH3_createState();
	int r;

	if (!state)
		return -ENOMEM;
	XXH3_64bits_reset(state);
	r = hash_fd(fd, most, state, ret_bytes);
	if (r == 0)
		snprintf(ret_checksum, 17, "%016llx",
		         (unsigned long long)XXH3_64bits_digest(state));
	XXH3_freeState(state);
	return r;
}

int file_checksum(const char *path, uint64_t *ret_bytes, char ret_checksum[17])
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

	return fd < 0 ? -errno : sum_fd(fd, UINT64_MAX, ret_bytes, ret_checksum);
}

/*
 * QEMU's file is one stream, summed whole. vmd-vmm's begins with the state of the machine, which is
 * summed; behind STATE_BYTES lies the memory, sparse, which a restore maps and does not read.
 */
#define STATE_BYTES (2u << 20)

struct ram_file {
	const char *path;
	bool kvm; /* written by engine kvm: it does not begin as a stream of QEMU's does */
	int fd;
	uint64_t bytes;
	char checksum[17];
};

static int create_file(void *arg)
{
	struct ram_file *f = arg;

	f->fd = open(f->path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	return f->fd < 0 ? -errno : 0;
}

static int sum_file(struct ram_file *f)
{
	char magic[4] = "";
	uint64_t summed;
	struct stat st;
	int r = lseek(f->fd, 0, SEEK_SET) < 0 || fstat(f->fd, &st) < 0 ||
	                        pread(f->fd, magic, sizeof(magic), 0) < 0
	                ? -errno
	                : 0;

	f->kvm = memcmp(magic, "QEVM", sizeof(magic)) != 0;
	if (r == 0)
		r = sum_fd(f->fd, f->kvm ? STATE_BYTES : UINT64_MAX, &summed, f->checksum);
	if (r == 0)
		f->bytes = (uint64_t)st.st_size;
	/* QEMU reads the stream from where the file stands. */
	return r == 0 && lseek(f->fd, 0, SEEK_SET) < 0 ? -errno : r;
}

static int finish_file(void *arg)
{
	struct ram_file *f = arg;

	return fsync(f->fd) < 0 ? -errno : sum_file(f);
}

static int open_file(void *arg)
{
	struct ram_file *f = arg;

	f->fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	return f->fd < 0 ? -errno : sum_file(f);
}

/* Hands a descriptor to the engine under a name, for "fd:" migration (QMP getfd). */
static int give_fd(struct guest *g, int fd, struct vmd_error *err)
{
	cleanup_json json_t *args = json_pack("{s:s}", "fdname", "vmd-ram");

	return guest_qmp_fds(g, "getfd", args, &fd, 1, NULL, err);
}

static int set_full_speed(struct guest *g, struct vmd_error *err)
{
	cleanup_json json_t *args = json_pack("{s:I}", "max-bandwidth", (json_int_t)1 << 40);

	return guest_qmp(g, "migrate-set-parameters", args, NULL, err);
}

static void cancel_migration(struct guest *g)
{
	fiber_shield(true);
	(void)guest_qmp(g, "migrate_cancel", NULL, NULL, NULL);
	fiber_shield(false);
}

/* QMP query-migrate until it says completed; told as progress of the job. */
static int follow_migration(struct guest *g, struct job *job, const char *stage,
                            struct vmd_error *err)
{
	/* Told in any case: it may be over at the first look. */
	job_progress(job, stage, 0, 0, 0);
	for (uint64_t pause_ms = 2;; pause_ms = MIN_OF(pause_ms * 2, (uint64_t)100)) {
		cleanup_json json_t *info = NULL;
		const json_t *ram;
		const char *status;
		uint64_t done, total;
		int r = guest_qmp(g, "query-migrate", NULL, &info, err);

		if (r < 0)
			return r;
		status = jsonx_str(info, "status", "");
		if (strcmp(status, "completed") == 0)
			return 0;
		if (strcmp(status, "failed") == 0 || strcmp(status, "cancelled") == 0)
			return error_set(
				err, ERROR_ENGINE_FAILED,
				"the engine could not transfer the memory of guest '%s': %s",
				g->name, jsonx_str(info, "error-desc", status));
		ram = json_object_get(info, "ram");
		total = (uint64_t)jsonx_int(ram, "total", 0);
		done = total - MIN_OF(total, (uint64_t)jsonx_int(ram, "remaining", 0));
		if (job && total)
			job_progress(job, stage, (unsigned)(done * 100 / total), done, total);
		r = fiber_sleep_ms(pause_ms);
		if (r < 0)
			return error_set(err, r == -ETIMEDOUT ? ERROR_TIMEOUT : ERROR_CANCELLED,
			                 "gave up transferring the memory of guest '%s'", g->name);
	}
}

static int save_stream(struct guest *g, int fd, struct job *job, struct vmd_error *err)
{
	cleanup_json json_t *args = json_pack("{s:s}", "uri", "fd:vmd-ram");
	int r = set_full_speed(g, err);

	if (r == 0)
		r = give_fd(g, fd, err);
	if (r == 0)
		r = guest_qmp(g, "migrate", args, NULL, err);
	if (r < 0)
		return r;
	r = follow_migration(g, job, "saving memory", err);
	if (r < 0)
		cancel_migration(g);
	return r;
}

int ram_check(const struct guest *g, struct vmd_error *err)
{
	cleanup_json json_t *definition = json_loads(g->run->definition, 0, NULL);
	const json_t *disk;
	size_t i;

	if (json_array_size(json_object_get(definition, "shares"))) {
		(void)error_set(err, ERROR_UNSUPPORTED,
		                "the state of a running guest with shared directories cannot be "
		                "saved: part of it is in virtiofsd");
		snprintf(err->field, sizeof(err->field), "definition.shares");
		error_hint(err, "stop the guest first");
		return -EOPNOTSUPP;
	}
	json_array_foreach(json_object_get(definition, "disks"), i, disk) {
		if (strcmp(jsonx_str(disk, "bus", ""), "nvme") != 0)
			continue;
		(void)error_set(err, ERROR_UNSUPPORTED,
		                "QEMU cannot save the state of a running guest with NVMe disks");
		snprintf(err->field, sizeof(err->field), "definition.disks[%zu].bus", i);
		error_hint(err, "stop the guest first, or use another bus");
		return -EOPNOTSUPP;
	}
	return 0;
}

/* Why the engine could not write: it tells words at best, and not always those. */
static int try_room(void *arg)
{
	const struct ram_file *f = arg;
	struct stat st;

	if (fstat(f->fd, &st) < 0)
		return -errno;
	return fallocate(f->fd, 0, st.st_size, ROOM_BYTES) < 0 ? -errno : 0;
}

static int remove_file(void *arg)
{
	const struct ram_file *f = arg;

	return unlink(f->path) < 0 ? -errno : 0;
}

/* After a failure: says what was missing, and leaves nothing. */
static void give_up_file(struct ram_file *f, const struct guest *g, struct vmd_error *err)
{
	int r = 0;

	fiber_shield(true);
	if (err->kind == ERROR_ENGINE_FAILED)
		r = work_run(try_room, f);
	if (r == -ENOSPC || r == -EDQUOT) {
		*err = (struct vmd_error)VMD_ERROR_INIT;
		(void)error_set_errno(err, -r, "cannot write the memory of guest '%s' to '%s'",
		                      g->name, f->path);
	}
	(void)work_run(remove_file, f);
	fiber_shield(false);
}

int ram_save(struct guest *g, const char *path, uint64_t *ret_bytes, char ret_checksum[17],
             struct job *job, struct vmd_error *err)
{
	struct ram_file f = { .path = path, .fd = -EBADF };
	int r = work_run(create_file, &f);

	if (r < 0)
		return error_set_errno(err, -r, "cannot create '%s'", path);
	r = save_stream(g, f.fd, job, err);
	if (r == 0) {
		r = work_run(finish_file, &f);
		if (r < 0)
			(void)error_set_errno(err, -r, "cannot write '%s'", path);
	}
	if (r < 0)
		give_up_file(&f, g, err);
	close(f.fd);
	if (r < 0)
		return r;
	*ret_bytes = f.bytes;
	memcpy(ret_checksum, f.checksum, 17);
	return 0;
}

static int check_file(const struct ram_file *f, uint64_t bytes, const char *checksum,
                      struct vmd_error *err)
{
	if (f->bytes != bytes)
		return error_set(err, ERROR_INVALID,
		                 "'%s' has %llu bytes where its manifest says %llu", f->path,
		                 (unsigned long long)f->bytes, (unsigned long long)bytes);
	if (strcmp(f->checksum, checksum) != 0)
		return error_set(err, ERROR_INVALID,
		                 "'%s' is damaged: checksum %s, manifest says %s", f->path,
		                 f->checksum, checksum);
	return 0;
}

static int load_stream(struct guest *g, int fd, struct vmd_error *err)
{
	cleanup_json json_t *args = json_pack("{s:s}", "uri", "fd:vmd-ram");
	int r = give_fd(g, fd, err);

	if (r == 0)
		r = guest_qmp(g, "migrate-incoming", args, NULL, err);
	if (r == 0)
		r = follow_migration(g, NULL, "loading memory", err);
	return r;
}

static int open_checked(struct ram_file *f, uint64_t bytes, const char *checksum,
                        struct vmd_error *err)
{
	int r = work_run(open_file, f);

	/* Its manifest is there, so that is no "not found". */
	if (r == -ENOENT)
		return error_set(err, ERROR_INVALID, "'%s' is missing", f->path);
	if (r < 0)
		return error_set_errno(err, -r, "cannot read '%s'", f->path);
	return check_file(f, bytes, checksum, err);
}

int ram_verify(const char *path, uint64_t bytes, const char *checksum, struct vmd_error *err)
{
	struct ram_file f = { .path = path, .fd = -EBADF };
	int r = open_checked(&f, bytes, checksum, err);

	cleanup_close_p(&f.fd);
	return r;
}

int ram_load(struct guest *g, const char *path, uint64_t bytes, const char *checksum,
             struct vmd_error *err)
{
	struct ram_file f = { .path = path, .fd = -EBADF };
	int r = open_checked(&f, bytes, checksum, err);

	if (r == 0 && f.kvm != (strcmp(g->engine, "kvm") == 0)) {
		r = error_set(err, ERROR_UNSUPPORTED,
		              "the memory of guest '%s' was saved by engine '%s', and the guest "
		              "runs on '%s' now",
		              g->name, f.kvm ? "kvm" : "qemu", g->engine);
		error_hint(err, "set definition.engine to '%s'", f.kvm ? "kvm" : "qemu");
	}
	if (r == 0)
		r = load_stream(g, f.fd, err);
	cleanup_close_p(&f.fd);
	return r;
}

struct suspend_paths {
	char dir[512], ram[544], manifest[544];
};

static void suspend_paths(const struct guest *g, struct suspend_paths *p)
{
	char state[512];

	guest_state_dir(g, state, sizeof(state));
	snprintf(p->dir, sizeof(p->dir), "%.480s/suspend", state);
	snprintf(p->ram, sizeof(p->ram), "%s/ram", p->dir);
	snprintf(p->manifest, sizeof(p->manifest), "%s/manifest.json", p->dir);
}

struct manifest_file {
	const char *dir, *path;
	char *text;
	size_t len;
};

static int make_dir(void *arg)
{
	return fs_mkdir_p(arg, 0700);
}

static int write_manifest(void *arg)
{
	const struct manifest_file *m = arg;

	return fs_write_atomic(AT_FDCWD, m->path, m->text, m->len, 1);
}

static int read_manifest(void *arg)
{
	struct manifest_file *m = arg;

	return fs_read_file(AT_FDCWD, m->path, 1 << 20, &m->text, &m->len);
}

static int remove_dir(void *arg)
{
	return fs_remove_tree(AT_FDCWD, arg);
}

void ram_drop_suspended(struct guest *g)
{
	struct suspend_paths p;
	int r;

	suspend_paths(g, &p);
	fiber_shield(true);
	r = work_run(remove_dir, p.dir);
	fiber_shield(false);
	if (r < 0)
		log_warning("Cannot remove '%s': %s", p.dir, strerror(-r));
}

bool ram_suspended_is_whole(struct guest *g)
{
	struct suspend_paths p;

	suspend_paths(g, &p);
	return access(p.manifest, F_OK) == 0;
}

int ram_save_suspended(struct guest *g, struct job *job, struct vmd_error *err)
{
	struct manifest_file m = { 0 };
	struct suspend_paths p;
	char checksum[17];
	uint64_t bytes;
	int r;

	suspend_paths(g, &p);
	r = work_run(make_dir, p.dir);
	if (r < 0)
		return error_set_errno(err, -r, "cannot make '%s'", p.dir);
	r = ram_save(g, p.ram, &bytes, checksum, job, err);
	if (r == 0) {
		cleanup_json json_t *o = json_pack("{s:i, s:I, s:s}", "version", 1, "bytes",
		                                   (json_int_t)bytes, "xxh3", checksum);

		m.path = p.manifest;
		m.text = o ? jsonx_dump(o) : NULL;
		m.len = m.text ? strlen(m.text) : 0;
		r = m.text ? work_run(write_manifest, &m) : -ENOMEM;
		free(m.text);
		if (r < 0)
			(void)error_set_errno(err, -r, "cannot write '%s'", p.manifest);
	}
	if (r < 0)
		ram_drop_suspended(g);
	return r;
}

int ram_load_suspended(struct guest *g, struct vmd_error *err)
{
	struct manifest_file m = { 0 };
	cleanup_json json_t *o = NULL;
	struct suspend_paths p;
	int r;

	suspend_paths(g, &p);
	m.path = p.manifest;
	r = work_run(read_manifest, &m);
	if (r < 0)
		return error_set_errno(err, -r, "cannot read '%s'", p.manifest);
	o = json_loadb(m.text, m.len, 0, NULL);
	free(m.text);
	if (!o || jsonx_int(o, "version", 0) != 1) {
		(void)error_set(err, ERROR_INVALID, "the suspend image of guest '%s' is damaged",
		                g->name);
		error_hint(err, "delete it with 'vmctl kill', then start the guest afresh");
		return -EINVAL;
	}
	return ram_load(g, p.ram, (uint64_t)jsonx_int(o, "bytes", 0), jsonx_str(o, "xxh3", ""),
	                err);
}
