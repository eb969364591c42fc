/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "client/progress.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "client/die.h"
#include "client/output.h"
#include "common/jsonx.h"
#include "common/parse.h"
#include "common/timeutil.h"

enum {
	QUIET_US = 300000,
	BAR_CELLS = 20,
};

struct progress {
	const char *doing;
	uint64_t start_us;
	bool drawn;
};

struct progress *progress_new(const char *doing)
{
	struct progress *p = xcalloc(1, sizeof(*p));

	p->doing = doing;
	p->start_us = now_monotonic_us();
	return p;
}

void progress_free(struct progress *p)
{
	progress_clear(p);
	free(p);
}

void progress_read(struct progress_state *s, const json_t *data)
{
	cleanup_strbuf struct strbuf stage = STRBUF_INIT;

	clean_word(&stage, jsonx_str(data, "stage", ""));
	snprintf(s->stage, sizeof(s->stage), "%s", stage.data ? stage.data : "");
	s->percent = (unsigned)MIN_OF(MAX_OF(jsonx_int(data, "percent", 0), 0), 100);
	s->bytes_done = (uint64_t)MAX_OF(jsonx_int(data, "bytes_done", 0), 0);
	s->bytes_total = (uint64_t)MAX_OF(jsonx_int(data, "bytes_total", 0), 0);
}

const char *progress_line(char *buf, size_t len, const char *doing, const char *name, size_t done,
                          size_t n, const struct progress_state *s, uint64_t elapsed_us)
{
	char bar[BAR_CELLS + 1], bytes[80] = "", count[48] = "", a[32], b[32];
	unsigned cells = s->percent * BAR_CELLS / 100;

	for (unsigned i = 0; i < BAR_CELLS; i++)
		bar[i] = i < cells ? '#' : '.';
	bar[BAR_CELLS] = '\0';
	if (s->bytes_total)
		snprintf(bytes, sizeof(bytes), " %s of %s",
		         format_size(a, sizeof(a), s->bytes_done),
		         format_size(b, sizeof(b), s->bytes_total));
	if (n > 1)
		snprintf(count, sizeof(count), " (%zu of %zu done)", done, n);
	format_duration(a, sizeof(a), elapsed_us);
	if (s->percent)
		snprintf(buf, len, "%s%s%s [%s] %3u%%%s %s %s%s", doing, name ? " " : "",
		         name ? name : "", bar, s->percent, bytes, s->stage, a, count);
	else
		snprintf(buf, len, "%s%s%s %s%s%s%s", doing, name ? " " : "", name ? name : "",
		         s->stage, *s->stage ? " " : "", a, count);
	return buf;
}

void progress_draw(struct progress *p, const char *name, size_t done, size_t n,
                   const struct progress_state *s)
{
	uint64_t elapsed;
	struct winsize ws;
	char line[256];
	int width = 80;

	if (!p)
		return;
	elapsed = now_monotonic_us() - p->start_us;
	if (elapsed < QUIET_US)
		return;
	if (ioctl(STDERR_FILENO, TIOCGWINSZ, &ws) == 0 && ws.ws_col > 1)
		width = ws.ws_col;
	progress_line(line, sizeof(line), p->doing, name, done, n, s, elapsed);
	fprintf(stderr, "\r\033[K%.*s", width - 1, line);
	fflush(stderr);
	p->drawn = true;
}

void progress_clear(struct progress *p)
{
	if (!p || !p->drawn)
		return;
	fputs("\r\033[K", stderr);
	fflush(stderr);
	p->drawn = false;
}
