/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "common/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <systemd/sd-journal.h>
#include <time.h>
#include <unistd.h>

#include "common/strbuf.h"

static struct {
	const char *identifier;
	int level;
	bool journal;
} target = { .identifier = "vmd", .level = LOG_INFO };

static const char *const level_names[] = {
	[LOG_EMERG] = "emerg", [LOG_ALERT] = "alert",     [LOG_CRIT] = "crit",
	[LOG_ERR] = "err",     [LOG_WARNING] = "warning", [LOG_NOTICE] = "notice",
	[LOG_INFO] = "info",   [LOG_DEBUG] = "debug",
};

/* sd-daemon(3): stderr is the journal when JOURNAL_STREAM holds its device and inode. */
static bool stderr_is_journal(void)
{
	const char *env = getenv("JOURNAL_STREAM");
	unsigned long long dev, ino;
	struct stat st;

	return env && sscanf(env, "%llu:%llu", &dev, &ino) == 2 && fstat(STDERR_FILENO, &st) == 0 &&
	       (unsigned long long)st.st_dev == dev && (unsigned long long)st.st_ino == ino;
}

void log_init(const char *identifier)
{
	target.identifier = identifier;
	target.journal = stderr_is_journal();
}

void log_set_level(int level)
{
	target.level = level;
}

int log_level(void)
{
	return target.level;
}

int log_level_from_string(const char *text)
{
	for (size_t i = 0; i < ARRAY_SIZE(level_names); i++)
		if (strcmp(level_names[i], text) == 0)
			return (int)i;
	return -EINVAL;
}

static void to_journal(int level, const struct log_field *fields, const char *message)
{
	struct strbuf lines[16] = { 0 };
	struct iovec iov[16];
	size_t n = 0;

	strbuf_printf(&lines[n++], "MESSAGE=%s", message);
	strbuf_printf(&lines[n++], "PRIORITY=%d", level);
	strbuf_printf(&lines[n++], "SYSLOG_IDENTIFIER=%s", target.identifier);
	for (; fields && fields->name && n < ARRAY_SIZE(lines); fields++)
		if (fields->value)
			strbuf_printf(&lines[n++], "%s=%s", fields->name, fields->value);
	for (size_t i = 0; i < n; i++)
		iov[i] = (struct iovec){ lines[i].data, lines[i].len };
	(void)sd_journal_sendv(iov, (int)n);
	for (size_t i = 0; i < n; i++)
		strbuf_deinit(&lines[i]);
}

static void to_stderr(int level, const struct log_field *fields, const char *message)
{
	cleanup_strbuf struct strbuf line = STRBUF_INIT;
	char stamp[32];
	struct timespec now;
	struct tm tm;

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &tm);
	strbuf_printf(&line, "%s.%03ldZ %s: %s: %s", stamp, now.tv_nsec / 1000000,
	              target.identifier, level_names[level], message);
	for (; fields && fields->name; fields++)
		if (fields->value)
			strbuf_printf(&line, " %s=%s", fields->name, fields->value);
	strbuf_append_char(&line, '\n');
	if (!strbuf_failed(&line) && write(STDERR_FILENO, line.data, line.len) < 0)
		return; /* nowhere left to tell */
}

void log_fields(int level, const struct log_field *fields, const char *format, ...)
{
	int saved_errno = errno;
	char message[1024];
	va_list ap;

	if (level > target.level)
		return;
	va_start(ap, format);
	vsnprintf(message, sizeof(message), format, ap);
	va_end(ap);
	if (target.journal)
		to_journal(level, fields, message);
	else
		to_stderr(level, fields, message);
	errno = saved_errno;
}
