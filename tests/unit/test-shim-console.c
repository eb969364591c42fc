/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

/* The real vmd-shim's console: ring, readers, input, logs, levels. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fdio.h"
#include "common/fsutil.h"
#include "common/timeutil.h"
#include "tests/unit/shim-fixture.h"

TestSuite(shim_console, .timeout = 60);

#define STAMP_LEN 28

/* Lines "0000001 ......" up to n, then `after`. */
#define FLOOD(n, after) \
	"seq -f '%07.0f 0123456789012345678901234567890123456789' " #n " >&3; " after

static int console(struct fx *fx, bool readonly, bool replay)
{
	struct vmd_error err = VMD_ERROR_INIT;
	int fd, r = shim_console(fx->shim, readonly, replay, 0, &fd, &err);

	cr_assert_eq(r, 0, "%s", err.message);
	return fd;
}

static char *logs(struct fx *fx, int64_t tail, uint64_t since_us, bool timestamps)
{
	struct shim_logs_opts opts = { .tail = tail,
		                       .since_us = since_us,
		                       .timestamps = timestamps };
	struct vmd_error err = VMD_ERROR_INIT;
	cleanup_close int fd = -EBADF;
	char *from_shim, *from_files;
	int r = shim_logs(fx->shim, &opts, &fd, &err);

	cr_assert_eq(r, 0, "%s", err.message);
	from_shim = fx_read(fd, NULL, NULL);
	/* Without the shim the text must be the same. */
	cr_assert_eq(shim_logs_text(fx->state, &opts, 64 << 20, &from_files, NULL, &err), 0);
	cr_assert_str_eq(from_shim, from_files);
	free(from_files);
	return from_shim;
}

static void replay(struct fx *fx)
{
	cleanup_close int a = -EBADF, b = -EBADF, c = -EBADF;
	cleanup_free char *ta = NULL, *tb = NULL, *tc = NULL, *td = NULL;

	fx_must_start(fx, "printf 'one\\r\\n\\033[1mtwo\\033[0m\\r\\nlogin: ' >&3; read x <&3; "
	                  "echo \"<$x>\" >&3; read y <&3");
	fx_wait(fx, &fx->ready[SHIM_READY_LOGIN]);
	a = console(fx, true, true);
	b = console(fx, false, false);
	ta = fx_read(a, "login: ", NULL);
	cr_assert_str_eq(ta, "one\r\n\033[1mtwo\033[0m\r\nlogin: ", "raw bytes are replayed");
	cr_assert_eq(send(a, "no\n", 3, MSG_NOSIGNAL), -1, "read-only is read-only");
	cr_assert_eq(write(b, "root\n", 5), 5);
	tb = fx_read(b, "<root>\n", NULL);
	cr_assert_str_eq(tb, "<root>\n");
	tc = fx_read(a, "<root>\n", NULL);
	cr_assert_str_eq(tc, "<root>\n", "all readers get it");
	cr_assert_eq(shim_signal(fx->shim, SIGKILL), 0);
	fx_wait(fx, &fx->exited);
	/* Late, after the end: the ring is still there, then the stream ends. */
	c = console(fx, false, true);
	td = fx_read(c, NULL, NULL);
	cr_assert_str_eq(td, "one\r\n\033[1mtwo\033[0m\r\nlogin: <root>\n");
	fx_release(fx);
}

Test(shim_console, several_readers_input_and_replay)
{
	fx_run(replay);
}

static void since(struct fx *fx)
{
	cleanup_close int a = -EBADF, b = -EBADF;
	cleanup_free char *ta = NULL, *tb = NULL;
	struct vmd_error err = VMD_ERROR_INIT;
	uint64_t between;

	fx_must_start(fx, "echo old >&3; read x <&3; echo new >&3; read x <&3");
	a = console(fx, false, true);
	ta = fx_read(a, "old\n", NULL);
	(void)fiber_sleep_ms(300);
	between = now_wall_us();
	cr_assert_eq(write(a, "\n", 1), 1);
	tb = fx_read(a, "new\n", NULL);
	free(TAKE_PTR(tb));
	cr_assert_eq(shim_console(fx->shim, true, true, between, &b, &err), 0);
	tb = fx_read(b, "new\n", NULL);
	cr_assert_str_eq(tb, "new\n");
}

Test(shim_console, replay_since)
{
	fx_run(since);
}

/* Every line must be the successor of the one before, but where bytes are told as lost. */
static uint64_t check_flood(const char *text, unsigned last, unsigned *ret_notices)
{
	const char *text_end = text + strlen(text);
	unsigned before = 0, n;
	uint64_t lost = 0;

	*ret_notices = 0;
	for (const char *p = text, *end; p < text_end; p = end + 1) {
		char line[64]; /* string functions on text itself cost its whole length under ASan
		                */

		end = memchr(p, '\n', (size_t)(text_end - p));
		cr_assert_not_null(end);
		cr_assert_lt(end - p, (ptrdiff_t)sizeof(line));
		memcpy(line, p, (size_t)(end - p));
		line[end - p] = '\0';
		if (strncmp(line, "[vmd: ", 6) == 0) {
			lost += strtoull(line + 6, NULL, 10);
			++*ret_notices;
			before = 0;
			continue;
		}
		if (end - p < 48)
			continue; /* a line cut by the notice */
		n = (unsigned)strtoul(line, NULL, 10);
		cr_assert(before == 0 || n == before + 1, "%u after %u", n, before);
		before = n;
	}
	cr_assert_eq(before, last);
	return lost;
}

static void flood(struct fx *fx)
{
	cleanup_close int slow = -EBADF, quick = -EBADF;
	cleanup_free char *text = NULL, *quick_text = NULL;
	unsigned notices;
	uint64_t lost;
	size_t len;

	/* 100,000 lines of 49 bytes: 4.9 MB. */
	fx_must_start(fx, "read x <&3; " FLOOD(100000, "read x <&3; exit 0"));
	slow = console(fx, true, true);
	quick = console(fx, false, true);
	cr_assert_eq(write(quick, "\n", 1), 1);
	quick_text = fx_read(quick, "0100000 0123456789012345678901234567890123456789\n", NULL);
	cr_assert_eq(write(quick, "\n", 1), 1);
	fx_wait(fx, &fx->exited);
	cr_assert(fx->exit.exited, "the one that reads nothing must delay nobody");
	(void)check_flood(quick_text, 100000, &notices);
	text = fx_read(slow, NULL, &len);
	lost = check_flood(text, 100000, &notices);
	cr_assert_eq(notices, 1);
	cr_assert_gt(lost, 3000000, "%llu", (unsigned long long)lost);
	/* What came, what was lost, and the notice itself make up everything. */
	cr_assert_eq(len - strlen(strstr(text, "\r\n[vmd: ")) + lost +
	                     strlen(strchr(strstr(text, "[vmd: "), '\n') + 1),
	             4900000);
	cr_assert_eq(shim_console_bytes(fx->shim), 0);
	fx_release(fx);
}

Test(shim_console, flood_and_slow_reader)
{
	fx_run(flood);
}

static void many(struct fx *fx)
{
	struct vmd_error err = VMD_ERROR_INIT;
	int fds[64], n = 0, r = 0;

	fx_must_start(fx, "echo hello >&3; exec sleep 1000");
	while (n < 64 && (r = shim_console(fx->shim, true, true, 0, &fds[n], &err)) == 0)
		n++;
	cr_assert_eq(r, -ENOSPC, "%d readers", n);
	cr_assert_eq(err.kind, ERROR_NO_SPACE);
	cr_assert_geq(n, 8);
	for (int i = 0; i < n; i++) {
		cleanup_free char *text = fx_read(fds[i], "hello\n", NULL);

		cr_assert_str_eq(text, "hello\n");
		close(fds[i]);
	}
	/* Places of those who left are free again; the shim learns it from the next event. */
	for (int i = 0; i < 100 && r < 0; i++) {
		struct vmd_error again = VMD_ERROR_INIT;

		r = shim_console(fx->shim, true, true, 0, &fds[0], &again);
		if (r < 0)
			(void)fiber_sleep_ms(10);
	}
	cr_assert_eq(r, 0);
	close(fds[0]);
}

Test(shim_console, number_of_readers_is_bounded)
{
	fx_run(many);
}

/* Writes until nothing is taken for a while; bytes taken. */
static size_t write_until_full(int fd)
{
	static char data[65536];
	size_t sent = 0;

	memset(data, 'a', sizeof(data));
	(void)fd_set_nonblock(fd, 1);
	while (sent < 8 << 20) {
		ssize_t n = write(fd, data, sizeof(data));

		if (n > 0)
			sent += (size_t)n;
		else if (fiber_wait_fd(fd, EV_WRITE, 300) < 0)
			break;
	}
	return sent;
}

static void backpressure(struct fx *fx)
{
	cleanup_close int fd = -EBADF, out = -EBADF, go = -EBADF;
	cleanup_free char *text = NULL;
	char script[256], want[128];
	size_t sent;

	/* The guest reads only once the file with the number of bytes is there. */
	snprintf(script, sizeof(script),
	         "while [ ! -s %s/go ]; do sleep 0.01; done; head -c $(cat %s/go) <&3 | wc -c >&3; "
	         "read x <&3",
	         fx->dir, fx->dir);
	fx_must_start(fx, script);
	fd = console(fx, false, false);
	out = console(fx, true, false);
	sent = write_until_full(fd);
	cr_assert_lt(sent, 8 << 20, "a guest that does not read must hold its writers up");
	/* The writer leaves: what was taken from it still reaches the guest, all of it. */
	cleanup_close_p(&fd);
	(void)fiber_sleep_ms(50);
	snprintf(want, sizeof(want), "%s/go.tmp", fx->dir);
	go = open(want, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	snprintf(script, sizeof(script), "%s/go", fx->dir);
	cr_assert_gt(dprintf(go, "%zu", sent), 0);
	cr_assert_eq(rename(want, script), 0);
	snprintf(want, sizeof(want), "%zu\n", sent);
	text = fx_read(out, "\n", NULL);
	cr_assert_str_eq(text, want);
}

Test(shim_console, input_is_held_back_never_lost)
{
	fx_run(backpressure);
}

static void levels(struct fx *fx)
{
	fx_must_start(
		fx,
		"printf 'Welcome to GRUB!\\r\\nLast login: now\\r\\n[    0.000000] Linux ver' >&3;"
		"sleep 0.05; printf 'sion 6.1.0-18-amd64\\r\\n' >&3; read x <&3;"
		"printf '[    1.0] Run /init as init process\\r\\n' >&3; read x <&3;"
		"printf '\\r\\nDebian GNU/Linux 12 web ttyS0\\r\\n\\r\\nweb \\033[0mlogin: ' >&3;"
		"read x <&3");
	cleanup_close int fd = console(fx, false, true);

	fx_wait(fx, &fx->ready[SHIM_READY_KERNEL]);
	cr_assert_not(fx->ready[SHIM_READY_INIT]);
	cr_assert_not(fx->ready[SHIM_READY_LOGIN]);
	cr_assert_eq(write(fd, "\n", 1), 1);
	fx_wait(fx, &fx->ready[SHIM_READY_INIT]);
	cr_assert_not(fx->ready[SHIM_READY_LOGIN]);
	cr_assert_eq(write(fd, "\n", 1), 1);
	fx_wait(fx, &fx->ready[SHIM_READY_LOGIN]);
	cr_assert_gt(fx->ready_us[SHIM_READY_KERNEL], 0);
	cr_assert_lt(fx->ready_us[SHIM_READY_KERNEL], fx->ready_us[SHIM_READY_INIT]);
	cr_assert_lt(fx->ready_us[SHIM_READY_INIT], fx->ready_us[SHIM_READY_LOGIN]);
	cr_assert_lt(fx->ready_us[SHIM_READY_LOGIN], 60000000);
	cr_assert_eq(shim_ready_us(fx->shim, SHIM_READY_LOGIN), fx->ready_us[SHIM_READY_LOGIN]);
}

Test(shim_console, readiness_levels)
{
	fx_run(levels);
}

static bool is_stamp(const char *p)
{
	static const char form[] = "dddd-dd-ddTdd:dd:dd.ddddddZ ";

	for (int i = 0; i < STAMP_LEN; i++)
		if (form[i] == 'd' ? p[i] < '0' || p[i] > '9' : p[i] != form[i])
			return false;
	return true;
}

static void log_lines(struct fx *fx)
{
	cleanup_free char *all = NULL, *tail = NULL, *none = NULL, *plain = NULL, *file = NULL;
	cleanup_free char *later = NULL;
	uint64_t between;

	fx_must_start(fx, "printf '\\033[1mone\\033[0m\\r\\n\\r\\ntwo\\r\\n' >&3; read x <&3; "
	                  "printf 'three\\r\\npart' >&3; read x <&3");
	cleanup_close int fd = console(fx, false, true);

	free(fx_file_with(fx->state, "console.log", "two\n"));
	(void)fiber_sleep_ms(2);
	between = now_wall_us();
	cr_assert_eq(write(fd, "\n", 1), 1);
	file = fx_file_with(fx->state, "console.log", "part");
	for (const char *p = file; p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL)
		cr_assert(is_stamp(p), "no stamp: %s", p);
	plain = logs(fx, -1, 0, false);
	cr_assert_str_eq(plain, "one\n\ntwo\nthree\npart");
	all = logs(fx, -1, 0, true);
	cr_assert_str_eq(all, file);
	tail = logs(fx, 2, 0, false);
	cr_assert_str_eq(tail, "three\npart");
	none = logs(fx, 0, 0, false);
	cr_assert_str_eq(none, "");
	later = logs(fx, -1, between, false);
	cr_assert_str_eq(later, "three\npart");
	free(TAKE_PTR(later));
	later = logs(fx, 1, between, false);
	cr_assert_str_eq(later, "part");
	free(TAKE_PTR(later));
	later = logs(fx, -1, now_wall_us() + 1000000, false);
	cr_assert_str_eq(later, "");
}

Test(shim_console, log_tail_since_and_stamps)
{
	fx_run(log_lines);
}

static void rotation(struct fx *fx)
{
	cleanup_free char *all = NULL, *tail = NULL, *cut = NULL;
	struct shim_logs_opts opts = { .tail = -1 };
	unsigned first, last = 0;
	bool truncated;
	struct stat st;
	char path[128];

	fx->params.log_max_bytes = 100000;
	fx->params.log_files = 3;
	fx_must_start(fx, "read x <&3; " FLOOD(20000, "read x <&3; exit 0"));
	cleanup_close int fd = console(fx, false, true);

	cr_assert_eq(write(fd, "\n", 1), 1);
	free(fx_file_with(fx->state, "console.log", "0020000 "));
	for (int i = 0; i < 5; i++) {
		snprintf(path, sizeof(path), i ? "%s/console.log.%d" : "%s/console.log", fx->state,
		         i);
		cr_assert_eq(stat(path, &st) == 0, i < 3, "%s", path);
		if (i < 3)
			cr_assert_leq(st.st_size, 100000 + 8192, "%s", path);
		if (i == 1 || i == 2)
			cr_assert_geq(st.st_size, 100000, "%s", path);
	}
	all = logs(fx, -1, 0, false);
	cr_assert_eq(sscanf(all, "%u", &first), 1);
	for (const char *p = all; *p; p = strchr(p, '\n') + 1) {
		cr_assert_eq((unsigned)strtoul(p, NULL, 10), last ? last + 1 : first);
		last = (unsigned)strtoul(p, NULL, 10);
	}
	cr_assert_eq(last, 20000);
	cr_assert_gt(first, 10000);
	/* More lines than the newest file holds. */
	tail = logs(fx, 2000, 0, false);
	cr_assert_eq(strtoul(tail, NULL, 10), 18001);
	cr_assert_eq(strlen(tail), 2000 * 49);
	cr_assert_eq(shim_logs_text(fx->state, &opts, 1000, &cut, &truncated, NULL), 0);
	cr_assert(truncated);
	cr_assert_leq(strlen(cut), 1000);
	cr_assert_eq(strtoul(cut, NULL, 10), 20000 - strlen(cut) / 49 + 1);
}

Test(shim_console, log_rotation)
{
	fx_run(rotation);
}

static void follow(struct fx *fx)
{
	struct shim_logs_opts opts = { .tail = 1, .follow = true };
	struct vmd_error err = VMD_ERROR_INIT;
	cleanup_close int log = -EBADF;
	cleanup_free char *text = NULL;
	unsigned last = 0;

	fx->params.log_max_bytes = 50000;
	fx->params.log_files = 50;
	fx_must_start(fx, "echo one >&3; echo two >&3; read x <&3; " FLOOD(20000, "exit 0"));
	cleanup_close int fd = console(fx, false, true);

	free(fx_file_with(fx->state, "console.log", "two\n"));
	cr_assert_eq(shim_logs(fx->shim, &opts, &log, &err), 0);
	text = fx_read(log, "two\n", NULL);
	cr_assert_str_eq(text, "two\n");
	free(TAKE_PTR(text));
	cr_assert_eq(write(fd, "\n", 1), 1);
	text = fx_read(log, NULL, NULL);
	for (const char *p = text; *p; p = strchr(p, '\n') + 1)
		cr_assert_eq((unsigned)strtoul(p, NULL, 10), ++last);
	cr_assert_eq(last, 20000);
}

Test(shim_console, follow_over_rotation_until_the_end)
{
	fx_run(follow);
}

static void second_run(struct fx *fx)
{
	cleanup_free char *text = NULL;

	fx_must_start(fx, "printf 'first run' >&3; read x <&3");
	free(fx_file_with(fx->state, "console.log", "first run"));
	cr_assert_eq(shim_signal(fx->shim, SIGKILL), 0);
	fx_wait(fx, &fx->exited);
	fx_release(fx);
	fx->exited = false;
	fx_must_start(fx, "echo second run >&3; read x <&3");
	free(fx_file_with(fx->state, "console.log", "second run\n"));
	text = logs(fx, -1, 0, false);
	cr_assert_str_eq(text, "first run\nsecond run\n");
}

Test(shim_console, log_goes_on_over_runs)
{
	fx_run(second_run);
}

static void full_disk(struct fx *fx)
{
	cleanup_close int fd = -EBADF, late = -EBADF;
	cleanup_free char *ring = NULL, *log = NULL;
	char path[128];
	int filler;

	if (mount("none", fx->state, "tmpfs", 0, "size=262144") < 0)
		cr_skip_test("cannot mount a small tmpfs (needs root)");
	snprintf(path, sizeof(path), "%s/filler", fx->state);
	filler = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	while (write(filler, path, sizeof(path)) > 0)
		;
	close(filler);
	fx_must_start(fx, "read x <&3; " FLOOD(5000, "read x <&3; echo again >&3; read x <&3"));
	fd = console(fx, false, true);
	cr_assert_eq(write(fd, "\n", 1), 1);
	ring = fx_read(fd, "0005000 0123456789012345678901234567890123456789\n", NULL);
	cr_assert_eq(strlen(ring), 5000 * 49, "readers do not feel the full disk");
	cr_assert_eq(unlink(path), 0);
	cr_assert_eq(write(fd, "\n", 1), 1);
	log = fx_file_with(fx->state, "console.log", "again\n");
	cr_assert_not_null(strstr(log, "bytes lost: No space left on device]\n"), "%s", log);
	cr_assert_eq(shim_signal(fx->shim, SIGKILL), 0);
	fx_wait(fx, &fx->exited);
	fx_release(fx);
	cr_assert_eq(umount2(fx->state, MNT_DETACH), 0);
}

Test(shim_console, full_disk_costs_log_lines_only)
{
	fx_run(full_disk);
}

static void no_state_dir(struct fx *fx)
{
	cleanup_close int fd = -EBADF;
	cleanup_free char *text = NULL;

	cr_assert_eq(rmdir(fx->state), 0);
	fx_must_start(fx, "echo hello >&3; read x <&3; echo back >&3; read x <&3");
	fd = console(fx, false, true);
	text = fx_read(fd, "hello\n", NULL);
	cr_assert_eq(mkdir(fx->state, 0700), 0);
	cr_assert_eq(write(fd, "\n", 1), 1);
	free(fx_file_with(fx->state, "console.log",
	                  "[vmd: 6 bytes lost: No such file or directory]\n"));
	free(fx_file_with(fx->state, "console.log", "back\n"));
}

Test(shim_console, log_directory_that_comes_later)
{
	fx_run(no_state_dir);
}
