/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fsutil.h"
#include "common/jsonx.h"
#include "common/log.h"
#include "daemon/fiber.h"
#include "daemon/store-internal.h"
#include "tests/unit/store-fixture.h"

static void init(void)
{
	log_set_level(LOG_EMERG);
}

TestSuite(store, .timeout = 120, .init = init, .fini = fixture_fini);

#define ID_A "0a000000-0000-4000-8000-000000000001"
#define ID_B "0b000000-0000-4000-8000-000000000002"

static const struct store_tuning small = { .journal_bytes = 16384, .idle_ms = 10000 };

static struct store *open_store(const char *dir, json_t *objects)
{
	struct vmd_error err = VMD_ERROR_INIT;
	struct store *s = NULL;

	cr_assert_eq(store_open_tuned(dir, &small, fixture_on_load, objects, &s, &err), 0, "%s",
	             err.message);
	return s;
}

static int put(struct store *s, const char *id, const char *text)
{
	struct store_txn *t = store_txn_new(s);

	store_put(t, "guests", id, text);
	return store_commit_sync(t, NULL);
}

static int del(struct store *s, const char *id)
{
	struct store_txn *t = store_txn_new(s);

	store_delete(t, "guests", id);
	return store_commit_sync(t, NULL);
}

/* The state on disk equals the expected objects. */
static void check_state(const char *dir, const char *expected)
{
	cleanup_json json_t *want = json_loads(expected, 0, NULL);
	cleanup_json json_t *have = fixture_load(dir);

	cr_assert(want);
	cr_assert(json_equal(have, want), "%s instead of %s", jsonx_dump(have), expected);
}

static bool exists(const char *path)
{
	return faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static void write_file(const char *path, const char *text)
{
	FILE *f = fopen(path, "we");

	cr_assert(f);
	fputs(text, f);
	fclose(f);
}

Test(store, objects_come_back)
{
	const char *dir = fixture_dir();
	struct store *s = open_store(dir, NULL);
	struct store_txn *t = store_txn_new(s);

	store_put(t, "guests", ID_A, "{\"name\":\"a\"}");
	store_put(t, "jobs", ID_A, "{\"x\":1.10}");
	cr_assert_eq(store_commit_sync(t, NULL), 0);
	cr_assert_eq(put(s, ID_B, "{\"name\":\"b\"}"), 0);
	cr_assert_eq(put(s, ID_B, "{\"name\":\"b2\"}"), 0);
	cr_assert_null(store_degraded(s));
	store_close(s);
	check_state(dir,
	            "{\"guests/" ID_A "\":\"{\\\"name\\\":\\\"a\\\"}\",\"jobs/" ID_A
	            "\":\"{\\\"x\\\":1.10}\",\"guests/" ID_B "\":\"{\\\"name\\\":\\\"b2\\\"}\"}");
}

Test(store, large_objects_and_many)
{
	const char *dir = fixture_dir();
	cleanup_json json_t *objects = json_object();
	struct store *s = open_store(dir, NULL);
	cleanup_free char *big = malloc(200001);
	char id[40];

	memset(big, 'x', 200000);
	big[200000] = '\0';
	cr_assert_eq(put(s, ID_A, big), 0, "larger than the journal");
	for (int i = 0; i < 300; i++) {
		snprintf(id, sizeof(id), "id-%d", i);
		cr_assert_eq(put(s, id, "[\"some text of some length\"]"), 0);
	}
	store_close(s);
	store_close(open_store(dir, objects));
	cr_assert_eq(json_object_size(objects), 301);
	cr_assert_str_eq(jsonx_str(objects, "guests/" ID_A, ""), big);
}

Test(store, bad_names_are_refused)
{
	struct store *s = open_store(fixture_dir(), NULL);
	const char *const bad[] = { "", "../x", ".x", "a/b", "a b", "a\nb" };

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		cr_assert_lt(put(s, bad[i], "{}"), 0, "'%s'", bad[i]);
	cr_assert_eq(store_object_dir(s, "guests", "../x"), -EINVAL);
	cr_assert_eq(store_object_dir(s, "events", ID_A), -EINVAL);
	store_close(s);
}

Test(store, delete_removes_the_directory)
{
	const char *dir = fixture_dir();
	struct store *s = open_store(dir, NULL);
	const char *log = fixture_path(dir, "guests/" ID_A "/console.log");
	int fd;

	cr_assert_eq(put(s, ID_A, "1"), 0);
	fd = store_object_dir(s, "guests", ID_A);
	cr_assert_geq(fd, 0);
	close(fd);
	write_file(log, "old life");
	cr_assert_eq(del(s, ID_A), 0);
	cr_assert_not(exists(fixture_path(dir, "guests/" ID_A)));

	/* The same id in a new life, whose files stay over checkpoints and restarts. */
	close(store_object_dir(s, "guests", ID_A));
	write_file(log, "new life");
	cr_assert_eq(put(s, ID_A, "2"), 0);
	for (int i = 0; i < 1000; i++)
		cr_assert_eq(put(s, ID_B, "[\"to make the journals rotate\"]"), 0);
	cr_assert(exists(log));
	cr_assert_eq(del(s, ID_B), 0);
	store_close(s);
	check_state(dir, "{\"guests/" ID_A "\":\"2\"}");
	cr_assert(exists(log));
	cr_assert_not(exists(fixture_path(dir, "guests/" ID_B)));
	cr_assert_eq(rmdir(fixture_path(dir, "trash")), 0, "the trash was swept");
}

/* What store_open says in a process of its own. */
static void expect_second_is_refused(const char *dir)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		struct vmd_error err = VMD_ERROR_INIT;
		struct store *second;

		if (store_open(dir, NULL, NULL, &second, &err) != -EBUSY)
			_exit(1);
		_exit(err.kind == ERROR_BUSY ? 0 : 2);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %x", status);
}

/* The next daemon does not wait for children of one that was killed. */
Test(store, a_child_of_a_dead_daemon_does_not_hold_the_directory)
{
	const char *dir = fixture_dir();
	int pipes[2], status;
	char byte;
	pid_t pid;

	cr_assert_eq(pipe2(pipes, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0) {
		(void)open_store(dir, NULL);
		if (fork() == 0) { /* has all descriptors, as between fork and exec */
			close(pipes[1]);
			_exit(read(pipes[0], &byte, 1) < 0);
		}
		_exit(0);
	}
	close(pipes[0]);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	store_close(open_store(dir, NULL));
	close(pipes[1]); /* ends the child */
}

Test(store, one_daemon_per_directory)
{
	const char *dir = fixture_dir();
	struct store *s = open_store(dir, NULL);
	struct stat before, after;

	cr_assert_eq(put(s, ID_A, "1"), 0);
	cr_assert_eq(stat(fixture_path(dir, "journal.0"), &before), 0);
	expect_second_is_refused(dir);
	cr_assert_eq(stat(fixture_path(dir, "journal.0"), &after), 0);
	cr_assert_eq(before.st_mtim.tv_nsec, after.st_mtim.tv_nsec);
	store_close(s);
	check_state(dir, "{\"guests/" ID_A "\":\"1\"}");
}

/* --- crash points ------------------------------------------------------------------------- */

struct crash {
	const char *dir, *copy;
	json_t *states[64]; /* after n transactions */
	unsigned n_acked;   /* transactions told to be durable */
	unsigned n_started;
	unsigned points;
	bool failed;
};

/* Before every call that changes the disk: what a daemon would find that starts from there. */
static int look(const char *call, void *userdata)
{
	struct crash *c = userdata;
	json_t *have;
	bool ok = false;

	(void)call;
	fixture_copy(c->dir, c->copy);
	have = fixture_load(c->copy);
	for (unsigned i = c->n_acked; i <= c->n_started; i++)
		ok |= json_equal(have, c->states[i]);
	if (!ok) {
		fprintf(stderr, "# before %s after %u transactions: %s\n", call, c->n_acked,
		        jsonx_dump(have));
		c->failed = true;
	}
	json_decref(have);
	c->points++;
	return 0;
}

static void set_state(json_t *state, const char *id, const char *text)
{
	char key[64];

	snprintf(key, sizeof(key), "guests/%s", id);
	if (text)
		(void)json_object_set_new(state, key, json_string(text));
	else
		(void)json_object_del(state, key);
}

/* The n-th transaction: changes two guests at once, deletes and makes anew. */
static struct store_txn *script_txn(struct store *s, unsigned n, json_t *state)
{
	static const char *const ids[] = { ID_A, ID_B };
	struct store_txn *t = store_txn_new(s);
	cleanup_free char *text = malloc(2000);

	for (unsigned i = 0; i < 2; i++) {
		if (n % 5 == 3 + i) {
			store_delete(t, "guests", ids[i]);
			set_state(state, ids[i], NULL);
			continue;
		}
		snprintf(text, 2000, "{\"n\":%u,\"fill\":\"%0*u\"}", n, n % 3 ? 20 : 1500, n);
		store_put(t, "guests", ids[i], text);
		set_state(state, ids[i], text);
	}
	return t;
}

Test(store, every_crash_point)
{
	struct crash c = { .dir = fixture_dir(), .copy = fixture_dir() };
	struct fixture_faults faults = { .before = look, .userdata = &c };
	struct store *s;

	c.states[0] = json_object();
	for (int round = 0; round < 2; round++) {
		s = open_store(c.dir, NULL);
		fixture_set_faults(&faults);
		for (unsigned i = 0; i < 15; i++) {
			struct store_txn *t;

			c.states[c.n_started + 1] = json_deep_copy(c.states[c.n_started]);
			t = script_txn(s, i, c.states[c.n_started + 1]);
			c.n_started++;
			cr_assert_eq(store_commit_sync(t, NULL), 0);
			c.n_acked++;
		}
		store_close(s);
		fixture_set_faults(NULL);
	}
	cr_log_info("%u crash points", c.points);
	cr_assert_gt(c.points, 150);
	cr_assert_not(c.failed);
	for (unsigned i = 0; i <= c.n_started; i++)
		json_decref(c.states[i]);
}

/* Fills one journal with transactions and cuts the daemon off; states[n] after n of them. */
static uint64_t cut_off(const char *dir, const char *copy, json_t **states, unsigned n)
{
	struct store *s = open_store(dir, NULL);
	uint64_t tail;

	states[0] = json_object();
	for (unsigned i = 0; i < n; i++) {
		states[i + 1] = json_deep_copy(states[i]);
		cr_assert_eq(store_commit_sync(script_txn(s, i * 5 + 1, states[i + 1]), NULL), 0);
	}
	tail = s->active->tail;
	cr_assert_eq(s->active, &s->journals[0]);
	fixture_copy(dir, copy);
	store_close(s);
	return tail;
}

static void free_states(json_t **states, unsigned n)
{
	for (unsigned i = 0; i <= n; i++)
		json_decref(states[i]);
}

/* Index of the state that the directory has, or -1. */
static int which(const char *dir, json_t **states, unsigned n)
{
	cleanup_json json_t *have = fixture_load(dir);

	for (unsigned i = 0; i <= n; i++)
		if (json_equal(have, states[i]))
			return (int)i;
	return -1;
}

Test(store, journal_cut_at_every_byte)
{
	const char *dir = fixture_dir(), *copy = fixture_dir(), *work = fixture_dir();
	json_t *states[4];
	uint64_t tail = cut_off(dir, copy, states, 3);
	int last = 3;

	for (uint64_t len = tail; len >= JOURNAL_DATA_START; len--) {
		int now;

		fixture_copy(copy, work);
		cr_assert_eq(truncate(fixture_path(work, "journal.0"), (off_t)len), 0);
		now = which(work, states, 3);
		cr_assert(now == last || now == last - 1, "at %d: %d after %d", (int)len, now,
		          last);
		last = now;
	}
	cr_assert_eq(last, 0);
	free_states(states, 3);
}

Test(store, journal_flipped_at_every_byte)
{
	const char *dir = fixture_dir(), *copy = fixture_dir(), *work = fixture_dir();
	json_t *states[4];
	uint64_t tail = cut_off(dir, copy, states, 3);
	int last = 0;

	for (uint64_t at = JOURNAL_DATA_START; at < tail; at++) {
		cleanup_close int fd = -EBADF;
		char c;
		int now;

		fixture_copy(copy, work);
		fd = open(fixture_path(work, "journal.0"), O_RDWR | O_CLOEXEC);
		cr_assert_eq(pread(fd, &c, 1, (off_t)at), 1);
		c ^= (char)(1 << at % 8);
		cr_assert_eq(pwrite(fd, &c, 1, (off_t)at), 1);
		now = which(work, states, 3);
		cr_assert(now == last || now == last + 1, "at %d: %d after %d", (int)at, now, last);
		last = now;
	}
	cr_assert_eq(last, 2);
	free_states(states, 3);
}

/* --- failing calls ------------------------------------------------------------------------ */

struct failing {
	const char *call;
	unsigned skip, fail;
	int error;
};

static int fail_some(const char *call, void *userdata)
{
	struct failing *f = userdata;

	if (f->call && strcmp(call, f->call) != 0)
		return 0;
	if (f->skip) {
		f->skip--;
		return 0;
	}
	if (!f->fail)
		return 0;
	f->fail--;
	return f->error;
}

/* Commits while calls fail: memory and disk agree after each, and all heals when they work. */
static void run_failing(struct failing f, bool half)
{
	/* While nothing at all can be written, what is half on disk cannot be voided. */
	bool all = !f.call;
	const char *dir = fixture_dir(), *copy = fixture_dir();
	struct fixture_faults faults = { .before = fail_some, .userdata = &f, .half = half };
	struct store *s = open_store(dir, NULL);
	json_t *state = json_object(), *have;

	fixture_set_faults(&faults);
	for (unsigned i = 0; i < 16; i++) {
		struct vmd_error err = VMD_ERROR_INIT;
		json_t *next = json_deep_copy(state);
		struct store_txn *t = script_txn(s, i, next);
		int r = store_commit_sync(t, &err);

		if (r < 0) {
			cr_assert_eq(err.kind, f.error == ENOSPC ? ERROR_NO_SPACE : ERROR_INTERNAL);
			cr_assert_not_null(store_degraded(s));
			json_decref(next);
		} else {
			json_decref(state);
			state = next;
			cr_assert_null(store_degraded(s));
		}
		if (i % 4 == 3 && !(all && store_degraded(s))) {
			struct failing saved = f;

			fixture_copy(dir, copy);
			f.fail = 0;
			have = fixture_load(copy);
			f.fail = saved.fail;
			f.skip = saved.skip;
			cr_assert(json_equal(have, state), "%s %u+%u: %s", f.call, saved.skip,
			          saved.fail, jsonx_dump(have));
			json_decref(have);
		}
	}
	f.fail = 0;
	cr_assert_eq(store_commit_sync(script_txn(s, 2, state), NULL), 0);
	cr_assert_null(store_degraded(s));
	store_close(s);
	fixture_set_faults(NULL);
	have = fixture_load(dir);
	cr_assert(json_equal(have, state));
	json_decref(have);
	json_decref(state);
	fixture_fini();
}

static void sweep(const char *call, unsigned points)
{
	static const unsigned fails[] = { 1, 2, 3, 7, 1000 };

	for (unsigned skip = 0; skip < points; skip++)
		for (unsigned i = 0; i < ARRAY_SIZE(fails); i++)
			run_failing(
				(struct failing){ call, skip, fails[i], skip % 2 ? EIO : ENOSPC },
				skip % 3 == 0);
}

Test(store, failing_journal_writes)
{
	sweep("pwritev", 6);
}

Test(store, failing_headers_and_growth)
{
	sweep("pwrite", 6);
}

Test(store, failing_journal_syncs)
{
	sweep("fdatasync", 8);
}

Test(store, failing_object_files)
{
	sweep("writev", 4);
	sweep("fsync", 6);
	sweep("renameat", 6);
	sweep("mkdirat", 3);
}

Test(store, everything_fails)
{
	for (unsigned skip = 0; skip < 60; skip += 3)
		run_failing((struct failing){ NULL, skip, 1000, skip % 2 ? EIO : ENOSPC }, false);
}

/* A file size limit is a full disk that every user can have. */
Test(store, file_size_limit)
{
	const char *dir = fixture_dir();
	struct rlimit limit, unlimited;
	struct vmd_error err = VMD_ERROR_INIT;
	struct store *s = open_store(dir, NULL);
	cleanup_free char *big = malloc(100001);
	struct store_txn *t;

	memset(big, 'x', 100000);
	big[100000] = '\0';
	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &unlimited);
	limit = unlimited;
	limit.rlim_cur = 40000;
	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
	cr_assert_eq(put(s, ID_B, "1"), 0);
	t = store_txn_new(s);
	store_put(t, "guests", ID_A, big);
	cr_assert_lt(store_commit_sync(t, &err), 0);
	cr_assert_eq(err.kind, ERROR_NO_SPACE);
	cr_assert_not_null(store_degraded(s));
	cr_assert_eq(put(s, ID_B, "2"), 0, "what fits is still written");
	cr_assert_null(store_degraded(s));
	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &unlimited), 0);
	cr_assert_eq(put(s, ID_A, "3"), 0);
	store_close(s);
	check_state(dir, "{\"guests/" ID_A "\":\"3\",\"guests/" ID_B "\":\"2\"}");
}

/* A full small file system: typed errors, deletions still work and make space. */
Test(store, full_file_system)
{
	const char *dir = fixture_dir();
	cleanup_json json_t *model = json_object(), *have = NULL;
	cleanup_free char *text = malloc(4001);
	unsigned n = 0, failed = 0;
	struct store *s;
	char id[16];

	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("tmpfs", dir, "tmpfs", 0, "size=512k") < 0)
		cr_skip_test("cannot mount a tmpfs: %s", strerror(errno));
	memset(text, 'x', 4000);
	text[4000] = '\0';
	s = open_store(dir, NULL);
	while (failed < 5) {
		struct vmd_error err = VMD_ERROR_INIT;
		struct store_txn *t = store_txn_new(s);

		snprintf(id, sizeof(id), "id-%u", n++);
		store_put(t, "guests", id, text);
		if (store_commit_sync(t, &err) == 0) {
			set_state(model, id, text);
		} else {
			cr_assert_eq(err.kind, ERROR_NO_SPACE);
			cr_assert_not_null(store_degraded(s));
			failed++;
		}
		cr_assert_lt(n, 1000);
	}
	store_close(s);
	s = open_store(dir, NULL);
	for (unsigned i = 0; i < n / 2; i++) {
		snprintf(id, sizeof(id), "id-%u", i);
		set_state(model, id, NULL);
		cr_assert_eq(del(s, id), 0, "delete %u of %u", i, n);
	}
	cr_assert_eq(put(s, ID_A, text), 0);
	set_state(model, ID_A, text);
	store_close(s);
	have = fixture_load(dir);
	cr_assert(json_equal(have, model));
	umount2(dir, MNT_DETACH);
}

/* --- damaged files ------------------------------------------------------------------------ */

/* Two objects, one of them with a generation before. */
static const char *with_objects(void)
{
	const char *dir = fixture_dir();
	struct store *s = open_store(dir, NULL);

	cr_assert_eq(put(s, ID_A, "\"old\""), 0);
	cr_assert_eq(put(s, ID_B, "\"b\""), 0);
	store_close(s);
	s = open_store(dir, NULL);
	cr_assert_eq(put(s, ID_A, "\"new\""), 0);
	store_close(s);
	return dir;
}

static unsigned count_bad(const char *dir)
{
	cleanup_dir DIR *d = opendir(fixture_path(dir, "guests/" ID_A));
	struct dirent *e;
	unsigned n = 0;

	while ((e = readdir(d)))
		n += strstr(e->d_name, ".bad-") != NULL;
	return n;
}

Test(store, rotten_object_falls_back)
{
	const char *dir = with_objects(), *work = fixture_dir();
	cleanup_free char *path = strdup(fixture_path(work, "guests/" ID_A "/guest.json"));
	struct stat st;

	check_state(dir, "{\"guests/" ID_A "\":\"\\\"new\\\"\",\"guests/" ID_B "\":\"\\\"b\\\"\"}");
	cr_assert_eq(stat(fixture_path(dir, "guests/" ID_A "/guest.json"), &st), 0);
	for (off_t at = 0; at < st.st_size; at++) {
		cleanup_close int fd = -EBADF;
		char c;

		fixture_copy(dir, work);
		fd = open(path, O_RDWR | O_CLOEXEC);
		cr_assert_eq(pread(fd, &c, 1, at), 1);
		c ^= (char)(1 << at % 8);
		cr_assert_eq(pwrite(fd, &c, 1, at), 1);
		check_state(work, "{\"guests/" ID_A "\":\"\\\"old\\\"\",\"guests/" ID_B
		                  "\":\"\\\"b\\\"\"}");
		cr_assert_eq(count_bad(work), 1);
		cr_assert_not(exists(path));
	}
	for (off_t len = 0; len < st.st_size; len++) {
		fixture_copy(dir, work);
		cr_assert_eq(truncate(path, len), 0);
		check_state(work, "{\"guests/" ID_A "\":\"\\\"old\\\"\",\"guests/" ID_B
		                  "\":\"\\\"b\\\"\"}");
	}
}

Test(store, both_generations_rotten)
{
	const char *dir = with_objects();
	struct store *s;

	write_file(fixture_path(dir, "guests/" ID_A "/guest.json"), "");
	write_file(fixture_path(dir, "guests/" ID_A "/guest.json.prev"), "{\"name\":\"x\"}\n");
	check_state(dir, "{\"guests/" ID_B "\":\"\\\"b\\\"\"}");
	cr_assert_eq(count_bad(dir), 2, "both were kept");
	s = open_store(dir, NULL);
	cr_assert_eq(put(s, ID_A, "\"again\""), 0);
	store_close(s);
	check_state(dir,
	            "{\"guests/" ID_A "\":\"\\\"again\\\"\",\"guests/" ID_B "\":\"\\\"b\\\"\"}");
}

/* A file of version 2, made with the checksum rule that all versions keep. */
static void write_newer(const char *dir)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	const char *path = "guests/" ID_A "/guest.json";
	/* The sum's seed is generation ^ version << 56, so this stands for version 2. */
	uint64_t seed = 9 ^ (uint64_t)1 << 56 ^ (uint64_t)2 << 56;
	cleanup_free char *data = NULL;
	size_t len;
	char sum[17];

	cr_assert_eq(unlinkat(fd, path, 0), 0);
	cr_assert_eq(object_write(fd, path, "\"future\"", 8, seed, false), 0);
	cr_assert_eq(fs_read_file(fd, path, 4096, &data, &len), 0);
	memcpy(sum, strstr(data, "\"xxh3\":\"") + 8, 16);
	sum[16] = '\0';
	free(data);
	cr_assert_gt(asprintf(&data,
	                      "{\"vmd\":2,\"generation\":9,\"xxh3\":\"%s\",\"more\":1}\n"
	                      "\"future\"\n",
	                      sum),
	             0);
	write_file(fixture_path(dir, "%s", path), data);
	close(fd);
}

Test(store, newer_object_is_left_alone)
{
	const char *dir = with_objects();
	cleanup_json json_t *objects = json_object();
	cleanup_free char *before = NULL, *after = NULL;
	const char *path = fixture_path(dir, "guests/" ID_A "/guest.json");
	struct vmd_error err = VMD_ERROR_INIT;
	struct store_txn *t;
	struct store *s;

	write_newer(dir);
	cr_assert_eq(fs_read_file(AT_FDCWD, path, 4096, &before, NULL), 0);
	s = open_store(dir, objects);
	cr_assert_eq(json_object_size(objects), 1);
	t = store_txn_new(s);
	store_put(t, "guests", ID_A, "{}");
	cr_assert_lt(store_commit_sync(t, &err), 0);
	cr_assert_eq(err.kind, ERROR_UNSUPPORTED);
	cr_assert_lt(del(s, ID_A), 0);
	cr_assert_eq(put(s, ID_B, "1"), 0, "the others are not concerned");
	store_close(s);
	cr_assert_eq(fs_read_file(AT_FDCWD, path, 4096, &after, NULL), 0);
	cr_assert_str_eq(before, after);
}

/* --- a real loop, real processes ---------------------------------------------------------- */

struct worker {
	struct store *store;
	unsigned number, *done;
};

static void commit_some(void *arg)
{
	struct worker *w = arg;
	struct vmd_error err = VMD_ERROR_INIT;
	char id[32];

	for (unsigned i = 0; i < 20; i++) {
		struct store_txn *t = store_txn_new(w->store);

		snprintf(id, sizeof(id), "id-%u-%u", w->number, i);
		store_put(t, "guests", id, "{\"name\":\"web\"}");
		cr_assert_eq(store_commit(t, &err), 0, "%s", err.message);
		++*w->done;
	}
}

/* A disk that takes a millisecond for each sync. */
static int slow_sync(const char *call, void *userdata)
{
	(void)userdata;
	if (strcmp(call, "fdatasync") == 0)
		usleep(1000);
	return 0;
}

Test(store, fibers_share_one_sync)
{
	struct fixture_faults slow = { .before = slow_sync };
	struct ev_loop *loop = ev_loop_new(EVFLAG_AUTO);
	const char *dir = fixture_dir();
	cleanup_json json_t *objects = json_object();
	struct store *s;
	struct worker workers[64];
	unsigned syncs, done = 0;

	fiber_init(loop);
	cr_assert_eq(store_open(dir, NULL, NULL, &s, NULL), 0);
	fixture_set_faults(&slow);
	syncs = fixture_count("fdatasync");
	for (unsigned i = 0; i < ARRAY_SIZE(workers); i++) {
		workers[i] = (struct worker){ .store = s, .number = i, .done = &done };
		cr_assert_eq(fiber_start("commit", commit_some, &workers[i]), 0);
	}
	while (done < 64 * 20)
		ev_run(loop, EVRUN_ONCE);
	syncs = fixture_count("fdatasync") - syncs;
	cr_log_info("%u commits, %u syncs", done, syncs);
	cr_assert_lt(syncs, done / 4);
	ev_run(loop, EVRUN_NOWAIT);
	store_close(s);
	fiber_deinit();
	ev_loop_destroy(loop);
	store_close(open_store(dir, objects));
	cr_assert_eq(json_object_size(objects), 64 * 20);
}

/* Commits until it is killed, and tells each number once it is durable. */
static _Noreturn void commit_forever(const char *dir, int out)
{
	struct store *s = open_store(dir, NULL);
	char id[16];

	for (unsigned i = 0;; i++) {
		snprintf(id, sizeof(id), "id-%u", i % 50);
		if (i % 7 == 6 ? del(s, id) : put(s, id, "\"some text that takes a little space\""))
			_exit(1);
		if (write(out, &i, sizeof(i)) != sizeof(i))
			_exit(0);
	}
}

static json_t *model_after(unsigned n)
{
	json_t *state = json_object();
	char id[16];

	for (unsigned i = 0; i < n; i++) {
		snprintf(id, sizeof(id), "id-%u", i % 50);
		set_state(state, id, i % 7 == 6 ? NULL : "\"some text that takes a little space\"");
	}
	return state;
}

Test(store, killed_at_any_time)
{
	for (unsigned round = 0; round < 20; round++) {
		const char *dir = fixture_dir();
		unsigned until = 40 + round * 37, last = 0;
		json_t *have, *before, *after;
		int pipes[2];
		pid_t pid;

		cr_assert_eq(pipe2(pipes, O_CLOEXEC), 0);
		pid = fork();
		if (pid == 0)
			commit_forever(dir, pipes[1]);
		close(pipes[1]);
		while (read(pipes[0], &last, sizeof(last)) == sizeof(last) && last < until)
			;
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		while (read(pipes[0], &last, sizeof(last)) == sizeof(last))
			;
		close(pipes[0]);
		cr_assert_geq(last, until);
		have = fixture_load(dir);
		before = model_after(last + 1);
		after = model_after(last + 2);
		cr_assert(json_equal(have, before) || json_equal(have, after), "round %u", round);
		json_decref(have);
		json_decref(before);
		json_decref(after);
		fixture_fini();
	}
}

/* Sum of voluntary context switches of all threads but this one. */
static unsigned long wake_ups(void)
{
	cleanup_dir DIR *d = opendir("/proc/self/task");
	struct dirent *e;
	unsigned long sum = 0;

	while ((e = readdir(d))) {
		cleanup_free char *data = NULL;
		const char *p;

		if (atoi(e->d_name) <= 0 || atoi(e->d_name) == gettid() ||
		    fs_read_file(AT_FDCWD, fixture_path("/proc/self/task", "%s/status", e->d_name),
		                 65536, &data, NULL) < 0)
			continue;
		p = strstr(data, "\nvoluntary_ctxt_switches:");
		sum += p ? strtoul(p + 25, NULL, 10) : 0;
	}
	return sum;
}

Test(store, idle_checkpoint_then_silence)
{
	static const struct store_tuning quick = { .journal_bytes = 65536, .idle_ms = 20 };
	const char *dir = fixture_dir();
	const char *path = fixture_path(dir, "guests/" ID_A "/guest.json");
	unsigned long before;
	struct store *s;

	cr_assert_eq(store_open_tuned(dir, &quick, NULL, NULL, &s, NULL), 0);
	cr_assert_eq(put(s, ID_A, "1"), 0);
	while (!exists(path))
		usleep(5000);
	pthread_mutex_lock(&s->lock);
	while (s->ckpt_ended < s->ckpt_wanted)
		pthread_cond_wait(&s->done, &s->lock);
	pthread_mutex_unlock(&s->lock);
	/* This one is a measurement: ten idle times in which nobody may wake up. */
	usleep(100000);
	before = wake_ups();
	usleep(200000);
	cr_assert_leq(wake_ups() - before, 0);
	store_close(s);
	check_state(dir, "{\"guests/" ID_A "\":\"1\"}");
}
