/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Real guests and their consoles. */
#include "config.h"

#include <criterion/criterion.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/timeutil.h"
#include "tests/lib/engine.h"
#include "tests/lib/scene.h"

static const char *kit_file(const char *arch, const char *name)
{
	static char paths[4][512];
	static unsigned next;
	char *path = paths[next++ % 4];
	const char *kit = getenv("VMD_TEST_KIT"), *cache = getenv("XDG_CACHE_HOME");
	const char *home = getenv("HOME");

	if (kit)
		snprintf(path, sizeof(paths[0]), "%s/%s/%s", kit, arch, name);
	else if (cache)
		snprintf(path, sizeof(paths[0]), "%s/vmd-test/%s/%s", cache, arch, name);
	else
		snprintf(path, sizeof(paths[0]), "%s/.cache/vmd-test/%s/%s", home ? home : "/root",
		         arch, name);
	if (access(path, R_OK) < 0)
		cr_skip_test("no %s test guest; tests/kit/fetch-kernels.sh makes it", arch);
	return path;
}

const char *kit_kernel(const char *arch)
{
	return kit_file(arch, "vmlinuz");
}

const char *kit_initrd(const char *arch)
{
	return kit_file(arch, "initrd.gz");
}

const char *kit_words(void)
{
	const char *words = getenv("VMD_TEST_CMDLINE");

	return words ? words : "";
}

static void create(struct scene *s, json_t *definition, json_t *more)
{
	if (more) {
		cr_assert_eq(json_object_update(definition, more), 0);
		json_decref(more);
	}
	call_ok(&s->client, "vm.create", "{s:o}", "definition", engine_define(definition));
}

void guest_create(struct scene *s, const char *name, const char *arch, const char *cmdline,
                  json_t *more)
{
	char line[512];

	snprintf(line, sizeof(line), "console=%s %s %s",
	         strcmp(arch, "aarch64") == 0 ? "ttyAMA0" : "ttyS0", kit_words(),
	         cmdline ? cmdline : "");
	create(s,
	       json_pack("{s:s, s:s, s:s, s:{s:s, s:s, s:s}}", "name", name, "arch", arch, "memory",
	                 "256M", "boot", "kernel", kit_kernel(arch), "initrd", kit_initrd(arch),
	                 "cmdline", line),
	       more);
}

void guest_create_bare(struct scene *s, const char *name, json_t *more)
{
	create(s,
	       json_pack("{s:s, s:s, s:s, s:o}", "name", name, "arch", "x86_64", "memory", "64M",
	                 "boot", engine_bare_boot()),
	       more);
}

void guest_boot(struct scene *s, const char *name)
{
	call_ok(&s->client, "vm.start", "{s:s}", "vm", name);
	engine_expect(&s->client, name);
	call_ok(&s->client, "vm.wait", "{s:s, s:s, s:i}", "vm", name, "for", "login", "timeout_ms",
	        CALL_TIMEOUT_MS - 5000);
}

const char *guest_state(struct scene *s, const char *name)
{
	static char state[32];
	json_t *info = call(&s->client, "vm.get", "{s:s}", "vm", name);

	snprintf(state, sizeof(state), "%s", member_str(info, "state"));
	json_decref(info);
	return state;
}

void guest_expect_state(struct scene *s, const char *name, const char *state)
{
	const char *seen = guest_state(s, name);

	cr_assert_str_eq(seen, state, "guest %s is %s, not %s", name, seen, state);
}

/* What came from each console and was not yet looked at. */
static struct {
	char text[1 << 20];
	size_t len;
} consoles[64];

int console_open(struct scene *s, const char *name, bool replay)
{
	json_t *params = json_pack("{s:s, s:b}", "vm", name, "replay", replay);
	json_t *reply = call_raw(&s->client, "console.open", params, NULL, 0);
	const json_t *result = json_object_get(reply, "result");
	cleanup_free char *text = json_dumps(reply, JSON_COMPACT);
	int fd;

	cr_assert(result, "console.open: %s", text);
	cr_assert_eq(member_int(result, "stream.fd"), 0);
	cr_assert_eq(s->client.n_fds, 1, "console.open gave %zu descriptors", s->client.n_fds);
	fd = s->client.fds[0];
	s->client.n_fds = 0;
	cr_assert_lt(fd, 64);
	consoles[fd].len = 0;
	json_decref(reply);
	return fd;
}

/* Waits for text and returns where it begins in consoles[fd]. */
static size_t console_find(int fd, const char *text, int timeout_ms)
{
	uint64_t deadline = now_monotonic_us() + (uint64_t)patient(timeout_ms) * 1000;
	struct pollfd p = { .fd = fd, .events = POLLIN };

	for (;;) {
		char *data = consoles[fd].text;
		size_t len = consoles[fd].len;
		char *at = memmem(data, len, text, strlen(text));
		uint64_t now = now_monotonic_us();
		ssize_t n = -1;

		if (at)
			return (size_t)(at - data);
		cr_assert(now < deadline && len < sizeof(consoles[fd].text),
		          "'%s' did not come; this came:\n%.*s", text, (int)MIN_OF(len, 4000u),
		          data + len - MIN_OF(len, 4000u));
		if (poll(&p, 1, (int)((deadline - now) / 1000 + 1)) > 0)
			n = read(fd, data + len, sizeof(consoles[fd].text) - len);
		else
			continue;
		cr_assert_gt(n, 0, "the console ended before '%s'; this came:\n%.*s", text,
		             (int)len, data);
		consoles[fd].len += (size_t)n;
	}
}

static void console_drop(int fd, size_t n)
{
	memmove(consoles[fd].text, consoles[fd].text + n, consoles[fd].len - n);
	consoles[fd].len -= n;
}

void console_expect(int fd, const char *text, int timeout_ms)
{
	console_drop(fd, console_find(fd, text, timeout_ms) + strlen(text));
}

void console_type(int fd, const char *text)
{
	cr_assert_eq(fd_write_all(fd, text, strlen(text)), 0);
}

/* The kit's init tells of addresses at its own time, also between the lines of a command. */
static void drop_notices(char *text)
{
	static const char notice[] = "vmd-guest: eth";
	char *line = text;

	while (line && *line) {
		char *end = strchr(line, '\n');

		if (strncmp(line, notice, strlen(notice)) != 0)
			line = end ? end + 1 : NULL;
		else if (end)
			memmove(line, end + 1, strlen(end + 1) + 1);
		else
			*line = '\0';
	}
}

const char *console_run(int fd, const char *command)
{
	static char output[65536];
	static unsigned count;
	char line[1024], begin[32], end[32];
	size_t n, len = 0;

	/* The quotes keep the echo of the typed line from looking like the answer. */
	count++;
	snprintf(line, sizeof(line), "echo BE''GIN-%u; %s; echo E''ND-%u\n", count, command, count);
	snprintf(begin, sizeof(begin), "BEGIN-%u\r\n", count);
	snprintf(end, sizeof(end), "END-%u\r\n", count);
	console_type(fd, line);
	console_expect(fd, begin, 60000);
	n = console_find(fd, end, 60000);
	for (size_t i = 0; i < n && len < sizeof(output) - 1; i++)
		if (consoles[fd].text[i] != '\r')
			output[len++] = consoles[fd].text[i];
	output[len] = '\0';
	drop_notices(output);
	len = strlen(output);
	if (len > 0 && output[len - 1] == '\n')
		output[len - 1] = '\0';
	console_drop(fd, n + strlen(end));
	return output;
}
