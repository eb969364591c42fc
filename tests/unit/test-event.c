/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <ev.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fsutil.h"
#include "common/jsonx.h"
#include "common/log.h"
#include "daemon/event.h"
#include "daemon/fiber.h"
#include "daemon/store-internal.h"
#include "tests/unit/store-fixture.h"

static struct ev_loop *loop;

static void init(void)
{
	log_set_level(LOG_EMERG);
	loop = ev_loop_new(EVFLAG_AUTO);
	fiber_init(loop);
}

static void fini(void)
{
	fiber_deinit();
	ev_loop_destroy(loop);
	fixture_fini();
}

TestSuite(event, .timeout = 60, .init = init, .fini = fini);

struct fixture {
	const char *dir;
	struct store *store;
	struct event_hub *hub;
};

#define RING_BYTES 65536u

static void open_hub(struct fixture *f, const char *dir)
{
	static const struct store_tuning small = { .journal_bytes = 16384, .idle_ms = 10000 };
	struct vmd_error err = VMD_ERROR_INIT;

	f->dir = dir;
	cr_assert_eq(store_open_tuned(dir, &small, NULL, NULL, &f->store, &err), 0, "%s",
	             err.message);
	cr_assert_eq(event_hub_new(f->store, RING_BYTES, &f->hub, &err), 0, "%s", err.message);
}

static void close_hub(struct fixture *f)
{
	event_hub_free(f->hub);
	store_close(f->store);
}

static uint64_t publish_txn(struct fixture *f, struct store_txn *txn, const char *type,
                            const char *vm)
{
	return event_publish(f->hub, txn,
	                     &(struct event){ .type = type,
	                                      .vm = vm,
	                                      .uuid = vm ? "uuid-of-it" : NULL,
	                                      .actor = "uid:0",
	                                      .data = json_pack("{s:s}", "vm", "inner") });
}

static uint64_t publish(struct fixture *f, const char *type, const char *vm)
{
	return publish_txn(f, NULL, type, vm);
}

/* A reader: what it got as "1 2 gap(3-5) 6". */
struct reader {
	struct event_sub *sub;
	char got[4096];
	unsigned limit; /* takes so many, then says it is full; 0: takes all */
	unsigned n;
	bool leave; /* unsubscribes on the first one */
};

static bool deliver(void *userdata, const char *text, size_t len)
{
	struct reader *r = userdata;
	cleanup_json json_t *e = jsonx_parse(text, len, 8, NULL);
	size_t n = strlen(r->got);
	const json_t *data = json_object_get(e, "data");

	cr_assert(e, "%.*s", (int)len, text);
	cr_assert_null(json_object_get(e, "sum"));
	if (r->limit && r->n == r->limit)
		return false;
	r->n++;
	if (r->leave) {
		event_unsubscribe(r->sub);
		r->sub = NULL;
	}
	if (n > sizeof(r->got) - 64)
		return true;
	if (strcmp(jsonx_str(e, "type", ""), "gap") == 0) {
		cr_assert_eq(jsonx_int(e, "seq", 0), jsonx_int(data, "to", -1));
		snprintf(r->got + n, sizeof(r->got) - n, "%sgap(%d-%d)", n ? " " : "",
		         (int)jsonx_int(data, "from", -1), (int)jsonx_int(data, "to", -1));
	} else {
		snprintf(r->got + n, sizeof(r->got) - n, "%s%d", n ? " " : "",
		         (int)jsonx_int(e, "seq", -1));
	}
	return true;
}

static void subscribe(struct fixture *f, struct reader *r, const char *filter, uint64_t since)
{
	cleanup_json json_t *json = filter ? json_loads(filter, 0, NULL) : NULL;

	cr_assert_eq(event_subscribe(f->hub, json, since, deliver, r, &r->sub), 0);
}

/* Turns the loop until nothing more is to be told. */
static void turn(void)
{
	for (int i = 0; i < 200; i++)
		ev_run(loop, EVRUN_NOWAIT);
}

static void check_replay(struct fixture *f, uint64_t since, const char *want)
{
	struct reader r = { .sub = NULL };

	subscribe(f, &r, NULL, since);
	turn();
	cr_assert_str_eq(r.got, want);
	event_unsubscribe(r.sub);
}

Test(event, live_and_replayed)
{
	struct reader live = { .sub = NULL };
	struct fixture f;

	open_hub(&f, fixture_dir());
	cr_assert_eq(event_last_seq(f.hub), 0);
	subscribe(&f, &live, NULL, UINT64_MAX);
	for (uint64_t i = 1; i <= 5; i++)
		cr_assert_eq(publish(&f, "vm.state", "web"), i);
	cr_assert_str_eq(live.got, "", "never inside the publisher");
	turn();
	cr_assert_str_eq(live.got, "1 2 3 4 5");
	cr_assert_eq(event_last_seq(f.hub), 5);
	cr_assert_eq(event_first_seq(f.hub), 1);
	check_replay(&f, 0, "1 2 3 4 5");
	check_replay(&f, 3, "4 5");
	check_replay(&f, 5, "");
	check_replay(&f, 99, "gap(1-5)");
	close_hub(&f);
}

Test(event, survives_orderly_restart)
{
	struct fixture f;

	open_hub(&f, fixture_dir());
	publish(&f, "a", NULL);
	publish(&f, "b", NULL);
	for (uint64_t i = 3; i < 6; i++) {
		close_hub(&f);
		open_hub(&f, f.dir);
		cr_assert_eq(publish(&f, "c", NULL), i);
	}
	check_replay(&f, 0, "1 2 3 4 5");
	close_hub(&f);
}

/* The state as a killed daemon leaves it. */
static void kill_and_open(struct fixture *f, struct fixture *dead)
{
	const char *copy = fixture_dir();

	fixture_copy(f->dir, copy);
	*dead = *f;
	open_hub(f, copy);
}

Test(event, survives_kill)
{
	struct fixture f, dead;

	open_hub(&f, fixture_dir());
	publish(&f, "a", NULL);
	publish(&f, "b", NULL);
	kill_and_open(&f, &dead);
	cr_assert_eq(publish(&f, "c", NULL), 3);
	check_replay(&f, 0, "1 2 3");
	close_hub(&f);
	close_hub(&dead);
}

static int commit(struct fixture *f, const char *type)
{
	struct store_txn *txn = store_txn_new(f->store);

	store_put(txn, "guests", "id", "{}");
	publish_txn(f, txn, type, "web");
	return store_commit_sync(txn, NULL);
}

Test(event, committed_but_not_flushed_survives_kill)
{
	struct fixture f, dead;

	open_hub(&f, fixture_dir());
	publish(&f, "a", NULL);
	cr_assert_eq(commit(&f, "b"), 0);
	publish(&f, "waits, and is lost untold", NULL);
	cr_assert_eq(commit(&f, "c"), 0);
	kill_and_open(&f, &dead);
	cr_assert_eq(event_last_seq(f.hub), 4);
	check_replay(&f, 0, "1 2 4");
	cr_assert_eq(publish(&f, "d", NULL), 5);
	/* Once more: the journal still has them, the ring has them now. */
	close_hub(&dead);
	kill_and_open(&f, &dead);
	check_replay(&f, 0, "1 2 4 5");
	close_hub(&f);
	close_hub(&dead);
}

/* The journal is not given up before the ring has its events, whatever happens to it. */
Test(event, journal_keeps_events_until_the_ring_has_them)
{
	struct fixture f, dead;
	struct store_txn *txn;
	uint64_t seq;

	open_hub(&f, fixture_dir());
	txn = store_txn_new(f.store);
	store_put(txn, "guests", "id", "{}");
	seq = publish_txn(&f, txn, "vm.state", "web");
	cr_assert_eq(store_commit_sync(txn, NULL), 0);
	for (int i = 0; i < 500; i++) {
		txn = store_txn_new(f.store);
		store_put(txn, "guests", "other", "[\"to make the journals rotate\"]");
		cr_assert_eq(store_commit_sync(txn, NULL), 0);
	}
	kill_and_open(&f, &dead);
	check_replay(&f, 0, "1");
	close_hub(&f);
	event_flush(dead.hub, seq);
	close_hub(&dead);
}

static void change_state_file(const char *dir, const char *boot_id)
{
	const char *path = fixture_path(dir, "events/state.json");
	cleanup_json json_t *state = json_load_file(path, 0, NULL);

	cr_assert(state);
	json_object_set_new(state, "boot_id", json_string(boot_id));
	cr_assert_eq(json_dump_file(state, path, 0), 0);
}

Test(event, numbers_never_repeat_after_power_cut)
{
	struct fixture f;
	const char *copy;
	const char *segment;
	uint64_t seq;
	char want[100];

	open_hub(&f, fixture_dir());
	for (int i = 0; i < 6; i++)
		publish(&f, "a", NULL);
	cr_assert_eq(commit(&f, "durable"), 0);
	event_flush(f.hub, 7);
	publish(&f, "b", NULL);
	copy = fixture_dir();
	fixture_copy(f.dir, copy);
	close_hub(&f);
	/* The disk has only one event of the ring, and a torn second one. */
	change_state_file(copy, "another boot");
	segment = fixture_path(copy, "events/%020d.jsonl", 1);
	cr_assert_eq(truncate(segment, 150), 0);
	open_hub(&f, copy);
	seq = publish(&f, "after", NULL);
	cr_assert_gt(seq, 1000000);
	snprintf(want, sizeof(want), "1 gap(2-6) 7 gap(8-%d) %d", (int)seq - 1, (int)seq);
	check_replay(&f, 0, want);
	check_replay(&f, 4, strstr(want, "gap(2-6)"));
	close_hub(&f);
	/* An orderly end before the boot: no jump. */
	change_state_file(copy, "a third boot");
	open_hub(&f, copy);
	cr_assert_eq(publish(&f, "next", NULL), seq + 1);
	close_hub(&f);
}

Test(event, delivery_in_order_of_numbers)
{
	struct reader r = { .sub = NULL };
	struct store_txn *one, *three;
	struct fixture f;

	open_hub(&f, fixture_dir());
	subscribe(&f, &r, NULL, UINT64_MAX);
	one = store_txn_new(f.store);
	three = store_txn_new(f.store);
	publish_txn(&f, one, "a", NULL);
	publish(&f, "b", NULL);
	publish_txn(&f, three, "c", NULL);
	publish(&f, "d", NULL);
	turn();
	cr_assert_str_eq(r.got, "");
	event_flush(f.hub, 3);
	turn();
	cr_assert_str_eq(r.got, "");
	cr_assert_eq(event_last_seq(f.hub), 0);
	event_flush(f.hub, 1);
	turn();
	cr_assert_str_eq(r.got, "1 2 3 4");
	publish_txn(&f, one, "a", NULL);
	publish(&f, "b", NULL);
	event_drop(f.hub, 5);
	turn();
	cr_assert_str_eq(r.got, "1 2 3 4 6", "a dropped number is no gap");
	store_txn_free(one);
	store_txn_free(three);
	close_hub(&f);
}

Test(event, filters)
{
	static const struct {
		const char *filter, *want;
	} cases[] = {
		{ "{}", "1 2 3 4" },
		{ "{\"types\":[\"vm.*\"]}", "1 2" },
		{ "{\"types\":[\"vm.ready\",\"job.*\"]}", "2 3" },
		{ "{\"types\":[]}", "" },
		{ "{\"vm\":\"web\"}", "1 3" },
		{ "{\"vm\":\"uuid-of-it\"}", "1 2 3" },
		{ "{\"vm\":\"inner\"}", "" },
		{ "{\"vm\":\"we\"}", "" },
		{ "{\"types\":[\"vm.state\"],\"vm\":\"db\"}", "" },
		{ "{\"types\":[\"*.ready\"],\"vm\":\"db\"}", "2" },
	};
	struct event_sub *sub;
	struct fixture f;

	open_hub(&f, fixture_dir());
	publish(&f, "vm.state", "web");
	publish(&f, "vm.ready", "db");
	publish(&f, "job.progress", "web");
	publish(&f, "daemon.reloaded", NULL);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct reader r = { .sub = NULL };

		subscribe(&f, &r, cases[i].filter, 0);
		turn();
		cr_assert_str_eq(r.got, cases[i].want, "%s: %s", cases[i].filter, r.got);
		event_unsubscribe(r.sub);
	}
	for (size_t i = 0; i < 3; i++) {
		static const char *const bad[] = { "{\"types\":\"vm.*\"}", "{\"types\":[1]}",
			                           "{\"vm\":1}" };
		cleanup_json json_t *filter = json_loads(bad[i], 0, NULL);

		cr_assert_eq(event_subscribe(f.hub, filter, 0, deliver, NULL, &sub), -EINVAL);
	}
	close_hub(&f);
}

Test(event, full_reader_goes_on_where_it_stopped)
{
	struct reader slow = { .limit = 2 }, other = { .sub = NULL };
	struct fixture f;

	open_hub(&f, fixture_dir());
	subscribe(&f, &slow, NULL, UINT64_MAX);
	subscribe(&f, &other, NULL, UINT64_MAX);
	for (int i = 0; i < 5; i++)
		publish(&f, "a", NULL);
	turn();
	cr_assert_str_eq(slow.got, "1 2");
	cr_assert_str_eq(other.got, "1 2 3 4 5", "nobody waits for it");
	slow.limit = 4;
	turn();
	cr_assert_str_eq(slow.got, "1 2", "not before it is resumed");
	event_sub_resume(slow.sub);
	turn();
	cr_assert_str_eq(slow.got, "1 2 3 4");
	slow.limit = 0;
	event_sub_resume(slow.sub);
	publish(&f, "a", NULL);
	turn();
	cr_assert_str_eq(slow.got, "1 2 3 4 5 6");
	close_hub(&f);
}

static uint64_t dir_bytes(const char *path)
{
	cleanup_dir DIR *d = opendir(path);
	uint64_t sum = 0;
	struct dirent *e;
	struct stat st;

	while ((e = readdir(d)))
		if (fstatat(dirfd(d), e->d_name, &st, 0) == 0 && S_ISREG(st.st_mode))
			sum += (uint64_t)st.st_size;
	return sum;
}

Test(event, ring_is_bounded_and_tells_what_is_gone)
{
	struct reader slow = { .limit = 3 }, late = { .limit = 1 };
	char want[64];
	struct fixture f;
	uint64_t first;

	open_hub(&f, fixture_dir());
	subscribe(&f, &slow, NULL, 0);
	for (int i = 0; i < 3; i++)
		publish(&f, "a", NULL);
	turn();
	for (int i = 0; i < 5000; i++)
		publish(&f, "vm.state", "web");
	first = event_first_seq(f.hub);
	cr_assert_gt(first, 4000);
	cr_assert_leq(dir_bytes(fixture_path(f.dir, "events")), RING_BYTES + 1024);
	slow.limit = 5;
	turn();
	event_sub_resume(slow.sub);
	turn();
	snprintf(want, sizeof(want), "1 2 3 gap(4-%d) %d", (int)first - 1, (int)first);
	cr_assert_str_eq(slow.got, want);
	slow.limit = 0;
	slow.n = 0;
	event_sub_resume(slow.sub);
	turn();
	cr_assert_eq(slow.n, 5003 - first, "the rest came whole");
	close_hub(&f);
	open_hub(&f, f.dir);
	cr_assert_eq(event_first_seq(f.hub), first);
	cr_assert_eq(event_last_seq(f.hub), 5003);
	subscribe(&f, &late, NULL, 5001);
	turn();
	cr_assert_str_eq(late.got, "5002");
	close_hub(&f);
}

Test(event, may_unsubscribe_while_told)
{
	struct reader a = { .leave = true }, b = { .sub = NULL };
	struct fixture f;

	open_hub(&f, fixture_dir());
	subscribe(&f, &a, NULL, UINT64_MAX);
	subscribe(&f, &b, NULL, UINT64_MAX);
	publish(&f, "a", NULL);
	publish(&f, "b", NULL);
	turn();
	cr_assert_str_eq(a.got, "1");
	cr_assert_str_eq(b.got, "1 2");
	close_hub(&f);
}

Test(event, damaged_lines_are_a_gap)
{
	struct fixture f;
	const char *copy;
	struct stat st;
	int fd;

	open_hub(&f, fixture_dir());
	for (int i = 0; i < 6; i++)
		publish(&f, "a", NULL);
	copy = fixture_dir();
	close_hub(&f);
	cr_assert_eq(stat(fixture_path(f.dir, "events/%020d.jsonl", 1), &st), 0);
	for (off_t at = 0; at < st.st_size; at++) {
		struct reader r = { .sub = NULL };
		struct fixture g;
		char c;

		fixture_copy(f.dir, copy);
		fd = open(fixture_path(copy, "events/%020d.jsonl", 1), O_RDWR | O_CLOEXEC);
		cr_assert_eq(pread(fd, &c, 1, at), 1);
		c ^= 4;
		cr_assert_eq(pwrite(fd, &c, 1, at), 1);
		close(fd);
		open_hub(&g, copy);
		subscribe(&g, &r, NULL, 0);
		turn();
		cr_assert(strstr(r.got, "gap("), "flip at %d: %s", (int)at, r.got);
		cr_assert_leq(r.n, 6);
		close_hub(&g);
	}
}

static int no_writes(const char *call, void *userdata)
{
	(void)userdata;
	return strcmp(call, "writev") == 0 || strcmp(call, "write") == 0 ? ENOSPC : 0;
}

Test(event, full_disk_silences_nobody)
{
	struct fixture_faults faults = { .before = no_writes, .half = true };
	struct reader r = { .sub = NULL };
	struct fixture f, dead;

	open_hub(&f, fixture_dir());
	subscribe(&f, &r, NULL, 0);
	publish(&f, "a", NULL);
	fixture_set_faults(&faults);
	publish(&f, "b", NULL);
	publish(&f, "c", NULL);
	turn();
	cr_assert_str_eq(r.got, "1 2 3");
	check_replay(&f, 1, "2 3");
	fixture_set_faults(NULL);
	publish(&f, "d", NULL);
	turn();
	cr_assert_str_eq(r.got, "1 2 3 4");
	kill_and_open(&f, &dead);
	check_replay(&f, 0, "1 2 3 4");
	close_hub(&f);
	close_hub(&dead);
}

Test(event, long_full_disk_is_a_gap)
{
	struct fixture_faults faults = { .before = no_writes };
	struct reader r = { .limit = 1 };
	struct fixture f;

	open_hub(&f, fixture_dir());
	publish(&f, "a", NULL);
	fixture_set_faults(&faults);
	for (int i = 0; i < 9999; i++)
		publish(&f, "vm.state", "web");
	subscribe(&f, &r, NULL, 1);
	turn();
	cr_assert_eq(strncmp(r.got, "gap(2-", 6), 0, "%s", r.got);
	r.limit = 0;
	event_sub_resume(r.sub);
	turn();
	cr_assert_eq(r.n, 10000 - atoi(r.got + 6) + 1);
	fixture_set_faults(NULL);
	close_hub(&f);
}

Test(event, no_place_for_the_ring)
{
	const char *dir = fixture_dir();
	int fd = open(fixture_path(dir, "events"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	struct fixture f;

	close(fd);
	open_hub(&f, dir);
	publish(&f, "a", NULL);
	publish(&f, "b", NULL);
	check_replay(&f, 0, "1 2");
	close_hub(&f);
}
