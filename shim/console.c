/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/timeutil.h"
#include "shim/shim.h"

#define READ_BYTES   4096
#define READ_BUDGET  32 /* reads per turn of the loop */
#define MARK_DIVISOR 512

static const char *const level_names[N_LEVELS] = { "kernel", "init", "login" };

const char *console_level_name(unsigned level)
{
	return level_names[level];
}

int console_init(struct shim *s, size_t ring_bytes, uint64_t log_max_bytes, unsigned log_files)
{
	struct console *c = &s->console;

	logfile_init(&c->log, s->state_dir, CONLOG_NAME, log_max_bytes, log_files);
	if (c->fd < 0)
		return 0;
	c->ring_bytes = ring_bytes;
	c->ring =
		mmap(NULL, ring_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (c->ring == MAP_FAILED)
		return -errno;
	return fd_set_nonblock(c->fd, 1);
}

static bool starts_with(const char *text, const char *prefix)
{
	return strncmp(text, prefix, strlen(prefix)) == 0;
}

static bool is_kernel_line(const char *line)
{
	return strstr(line, "Linux version ") != NULL;
}

static bool is_init_line(const char *line)
{
	return strstr(line, "Run /init as init process") || strstr(line, "Run /sbin/init") ||
	       strstr(line, "systemd[1]:") ||
	       (starts_with(line, "Welcome to ") && !starts_with(line, "Welcome to GRUB"));
}

/* "login:" or "HOST login:", alone or with what was typed; not "Last login: Mon ...". */
static bool is_login_line(const char *line)
{
	const char *p = line + strspn(line, " \t");

	if (!starts_with(p, "login:")) {
		size_t word = strcspn(p, " \t");

		if (starts_with(p, "Last ") || !word)
			return false;
		p += word;
		if (*p != ' ' || !starts_with(p + 1, "login:"))
			return false;
		p++;
	}
	p += strlen("login:");
	return !*p || *p == ' ';
}

static bool (*const level_tests[N_LEVELS])(const char *) = { is_kernel_line, is_init_line,
	                                                     is_login_line };

/* The line so far, complete or not. */
static void check_levels(struct shim *s)
{
	struct console *c = &s->console;

	c->line[c->line_len] = '\0';
	for (unsigned i = 0; i < N_LEVELS; i++) {
		if (c->ready_us[i] || !level_tests[i](c->line))
			continue;
		c->ready_us[i] = MAX_OF(now_monotonic_us() - s->start_mono_us, (uint64_t)1);
		c->ready_wall_us[i] = now_wall_us();
		for (size_t k = 0; k < MAX_CLIENTS; k++)
			s->clients[k].ready_due[i] = s->clients[k].notify;
	}
}

static void watch_text(struct shim *s, const char *text, size_t n)
{
	struct console *c = &s->console;

	for (size_t i = 0; i < n; i++) {
		if (text[i] == '\n') {
			check_levels(s);
			c->line_len = 0;
		} else if (c->line_len < sizeof(c->line) - 1) {
			c->line[c->line_len++] = text[i] ? text[i] : ' ';
		}
	}
	if (c->line_len)
		check_levels(s);
}

static void mark(struct console *c, uint64_t time_us)
{
	/* A chunk near the last mark, in time and in the ring, gets none of its own. */
	if (c->n_marks) {
		size_t last = (c->n_marks - 1) % ARRAY_SIZE(c->marks);

		if (c->head - c->marks[last].offset < c->ring_bytes / MARK_DIVISOR &&
		    time_us - c->marks[last].time_us < MARK_US)
			return;
	}
	c->marks[c->n_marks % ARRAY_SIZE(c->marks)].offset = c->head;
	c->marks[c->n_marks % ARRAY_SIZE(c->marks)].time_us = time_us;
	c->n_marks++;
}

static void store(struct console *c, const char *data, size_t n)
{
	while (n) {
		size_t at = (size_t)(c->head % c->ring_bytes);
		size_t part = MIN_OF(n, c->ring_bytes - at);

		memcpy(c->ring + at, data, part);
		c->head += part;
		data += part;
		n -= part;
	}
}

void console_read(struct shim *s)
{
	struct console *c = &s->console;
	char raw[READ_BYTES], clean[2 * READ_BYTES];

	for (int budget = READ_BUDGET; budget > 0 && c->fd >= 0; budget--) {
		ssize_t n = read(c->fd, raw, sizeof(raw));
		uint64_t now;
		size_t len;

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0) {
			cleanup_close_p(&c->fd);
			return;
		}
		now = now_wall_us();
		mark(c, now);
		store(c, raw, (size_t)n);
		len = textclean(&c->text, raw, (size_t)n, clean);
		watch_text(s, clean, len);
		logfile_write(&c->log, clean, len, now);
	}
}

void console_write_input(struct shim *s)
{
	struct console *c = &s->console;
	ssize_t n = write(c->fd, c->input + c->input_pos, c->input_len - c->input_pos);

	if (n > 0)
		c->input_pos += (size_t)n;
	else if (n < 0 && errno != EAGAIN && errno != EINTR)
		c->input_pos = c->input_len; /* nobody reads any more; reading tells why */
	if (c->input_pos == c->input_len)
		c->input_pos = c->input_len = 0;
}
