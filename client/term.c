/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "client/term.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "client/rpcclient.h"
#include "common/macros.h"

static struct {
	struct termios saved, raw;
	volatile sig_atomic_t is_raw;
	volatile sig_atomic_t ended; /* signal that was caught */
	bool catch_end;
	sigset_t wait_mask; /* for ppoll(), with catch_end */
} term;

static const int end_signals[] = { SIGINT, SIGTERM, SIGHUP };

/* Stopped from outside: the shell gets a sane terminal, we take it again when we go on. */
static void on_stop(int sig UNUSED)
{
	int saved_errno = errno;

	if (term.is_raw)
		(void)tcsetattr(STDIN_FILENO, TCSANOW, &term.saved);
	(void)raise(SIGSTOP);
	if (term.is_raw)
		(void)tcsetattr(STDIN_FILENO, TCSANOW, &term.raw);
	errno = saved_errno;
}

/* Everything here may be called from a signal handler; TCSANOW does not wait for stuck output. */
static void on_fatal(int sig)
{
	if (term.is_raw)
		(void)tcsetattr(STDIN_FILENO, TCSANOW, &term.saved);
	(void)signal(sig, SIG_DFL);
	(void)raise(sig);
}

static void on_end(int sig)
{
	term.ended = sig;
	rpc_interrupted = 1;
}

void term_catch_end(void)
{
	sigset_t caught;

	sigemptyset(&caught);
	for (size_t i = 0; i < ARRAY_SIZE(end_signals); i++) {
		struct sigaction action = { .sa_handler = on_end };

		(void)sigaction(end_signals[i], &action, NULL);
		sigaddset(&caught, end_signals[i]);
	}
	/* They arrive only in ppoll(), so that none is missed before it. */
	(void)sigprocmask(SIG_BLOCK, &caught, &term.wait_mask);
	for (size_t i = 0; i < ARRAY_SIZE(end_signals); i++)
		sigdelset(&term.wait_mask, end_signals[i]);
	term.catch_end = true;
}

int term_ended(void)
{
	return term.ended;
}

const sigset_t *term_wait_mask(void)
{
	return term.catch_end ? &term.wait_mask : NULL;
}

static bool is_end_signal(int sig)
{
	for (size_t i = 0; i < ARRAY_SIZE(end_signals); i++)
		if (end_signals[i] == sig)
			return true;
	return false;
}

static void install_handlers(void)
{
	static const struct {
		int sig;
		void (*handler)(int);
	} signals[] = {
		{ SIGINT, on_fatal },  { SIGTERM, on_fatal }, { SIGHUP, on_fatal },
		{ SIGQUIT, on_fatal }, { SIGTSTP, on_stop },  { SIGPIPE, SIG_IGN },
		{ SIGSEGV, on_fatal }, { SIGABRT, on_fatal }, { SIGBUS, on_fatal },
		{ SIGWINCH, SIG_IGN },
	};

	for (size_t i = 0; i < ARRAY_SIZE(signals); i++) {
		struct sigaction action = { .sa_handler = signals[i].handler };

		if (!term.catch_end || !is_end_signal(signals[i].sig))
			(void)sigaction(signals[i].sig, &action, NULL);
	}
}

bool term_raw(void)
{
	install_handlers();
	if (tcgetattr(STDIN_FILENO, &term.saved) < 0)
		return false;
	term.raw = term.saved;
	cfmakeraw(&term.raw);
	term.is_raw = 1;
	(void)tcsetattr(STDIN_FILENO, TCSADRAIN, &term.raw);
	return true;
}

void term_restore(void)
{
	if (!term.is_raw)
		return;
	(void)tcsetattr(STDIN_FILENO, TCSADRAIN, &term.saved);
	term.is_raw = 0;
}

int term_escape_parse(const char *text, int *ret_code)
{
	size_t len = strlen(text);

	if (strcmp(text, "none") == 0) {
		*ret_code = -1;
		return 0;
	}
	if (len == 2 && text[0] == '^') {
		char c = text[1] >= 'a' && text[1] <= 'z' ? (char)(text[1] - 32) : text[1];

		if (c < '@' || c > '_')
			return -EINVAL;
		*ret_code = c & 0x1f;
		return 0;
	}
	if (len != 1 || (unsigned char)text[0] >= 0x7f)
		return -EINVAL;
	*ret_code = text[0];
	return 0;
}

const char *term_escape_name(int code)
{
	static char name[3];

	if (code < 0)
		return "none";
	if (code < 0x20)
		snprintf(name, sizeof(name), "^%c", (char)(code | 0x40));
	else
		snprintf(name, sizeof(name), "%c", (char)code);
	return name;
}
