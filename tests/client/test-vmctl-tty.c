/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "common/jsonx.h"
#include "tests/client/fakevmd.h"

#define LONG_WORD "0123456789012345678901234567890123456789012345678901234567890123456789"

TestSuite(vmctl_tty, .timeout = 60);

Test(vmctl_tty, console_without_a_terminal)
{
	static const struct fake_rule rules[] = {
		{ .method = "console.open",
		  .reply = "{\"stream\": {\"fd\": 0}}",
		  .stream = "hello\n" },
		{ 0 },
	};
	struct outcome o;
	struct fake f;

	fake_start(&f, rules);
	o = vmctl(&f, "echo.", "console", "web", NULL);
	EXPECT_CODE(o, 0);
	cr_assert_str_eq(o.out, "hello\necho.");
	outcome_free(&o);
	fake_stop(&f);
}

Test(vmctl_tty, console_on_a_terminal)
{
	static const struct fake_rule rules[] = {
		{ .method = "console.open",
		  .reply = "{\"stream\": {\"fd\": 0}}",
		  .stream = "login: " },
		{ 0 },
	};
	struct termios before, after;
	char buf[4096];
	struct fake f;
	pid_t pid;
	int tty;

	fake_start(&f, rules);
	pid = vmctl_on_tty(&f, &tty, "console", "web", NULL);
	tcgetattr(tty, &before);
	tty_expect(tty, "login: ", buf, sizeof(buf));
	EXPECT_IN(buf, "^] leaves it");
	cr_assert_eq(write(tty, "abc", 3), 3);
	tty_expect(tty, "abc", buf, sizeof(buf));
	tcgetattr(tty, &after);
	cr_assert_eq(after.c_lflag & (ECHO | ICANON), 0, "the terminal is not raw");
	cr_assert_eq(write(tty, "\x1d", 1), 1);
	tty_expect(tty, "detached", buf, sizeof(buf));
	cr_assert_eq(wait_exit(pid), 0);
	tcgetattr(tty, &after);
	cr_assert_eq(after.c_lflag & (ECHO | ICANON), ECHO | ICANON, "the terminal is still raw");
	close(tty);
	fake_stop(&f);
}

Test(vmctl_tty, console_killed_gives_the_terminal_back)
{
	static const struct fake_rule rules[] = {
		{ .method = "console.open",
		  .reply = "{\"stream\": {\"fd\": 0}}",
		  .stream = "login: " },
		{ 0 },
	};
	struct termios after;
	char buf[4096];
	struct fake f;
	pid_t pid;
	int tty;

	fake_start(&f, rules);
	pid = vmctl_on_tty(&f, &tty, "console", "web", NULL);
	tty_expect(tty, "login: ", buf, sizeof(buf));
	cr_assert_eq(kill(pid, SIGTERM), 0);
	cr_assert_eq(wait_exit(pid), -SIGTERM);
	tcgetattr(tty, &after);
	cr_assert_eq(after.c_lflag & (ECHO | ICANON), ECHO | ICANON, "the terminal is still raw");
	close(tty);
	fake_stop(&f);
}

Test(vmctl_tty, progress_and_interrupt)
{
	static const struct fake_rule rules[] = {
		{ .method = "events.subscribe", .reply = "{\"seq\": 1, \"subscription\": 1}" },
		{ .method = "vm.suspend",
		  .reply = "{\"job\": {\"id\": \"j1\", \"state\": \"running\"}}" },
		{ .method = "job.wait", .silent = true, .reply = "{}" },
		{ 0 },
	};
	char buf[4096];
	struct fake f;
	pid_t pid;
	int tty;

	fake_start(&f, rules);
	pid = vmctl_on_tty(&f, &tty, "suspend", "web", NULL);
	tty_expect(tty, "suspending web", buf, sizeof(buf));
	cr_assert_eq(write(tty, "\x03", 1), 1);
	tty_expect(tty, "job cancel j1", buf, sizeof(buf));
	EXPECT_IN(buf, "job j1 of web goes on");
	cr_assert_eq(wait_exit(pid), 130);
	close(tty);
	fake_stop(&f);
}

/* With --rm, ^C before the console is there and a hang-up on it leave nothing behind either. */
static void expect_removed(struct fake *f)
{
	json_t *all = fake_requests(f);

	(void)fake_params(all, "vm.kill", 0);
	(void)fake_params(all, "vm.delete", 0);
	json_decref(all);
}

Test(vmctl_tty, run_rm_interrupted)
{
	static const struct fake_rule starting[] = {
		{ .method = "events.subscribe", .reply = "{\"seq\": 1, \"subscription\": 1}" },
		{ .method = "vm.create", .reply = "{\"name\": \"web\"}" },
		{ .method = "vm.start",
		  .reply = "{\"job\": {\"id\": \"j1\", \"state\": \"running\"}}" },
		{ .method = "job.wait", .silent = true, .reply = "{}" },
		{ .method = "vm.kill", .reply = "{}" },
		{ .method = "vm.delete", .reply = "{}" },
		{ 0 },
	};
	static const struct fake_rule running[] = {
		{ .method = "events.subscribe", .reply = "{\"seq\": 1, \"subscription\": 1}" },
		{ .method = "vm.create", .reply = "{\"name\": \"web\"}" },
		{ .method = "vm.start", .reply = "{\"name\": \"web\"}" },
		{ .method = "console.open",
		  .reply = "{\"stream\": {\"fd\": 0}}",
		  .stream = "login: " },
		{ .method = "vm.kill", .reply = "{}" },
		{ .method = "vm.delete", .reply = "{}" },
		{ 0 },
	};
	char buf[4096];
	struct fake f;
	pid_t pid;
	int tty;

	fake_start(&f, starting);
	pid = vmctl_on_tty(&f, &tty, "run", "web", "--rm", NULL);
	tty_expect(tty, "starting web", buf, sizeof(buf));
	cr_assert_eq(write(tty, "\x03", 1), 1);
	tty_expect(tty, "web: deleted", buf, sizeof(buf));
	cr_assert_null(strstr(buf, "goes on"), "%s", buf);
	cr_assert_eq(wait_exit(pid), 130);
	close(tty);
	expect_removed(&f);
	fake_stop(&f);
	fake_start(&f, running);
	pid = vmctl_on_tty(&f, &tty, "run", "web", "--rm", NULL);
	tty_expect(tty, "login: ", buf, sizeof(buf));
	cr_assert_eq(kill(pid, SIGHUP), 0);
	tty_expect(tty, "web: deleted", buf, sizeof(buf));
	cr_assert_eq(wait_exit(pid), 128 + SIGHUP);
	close(tty);
	expect_removed(&f);
	fake_stop(&f);
}

Test(vmctl_tty, job_wait_shows_progress)
{
	static const struct fake_rule rules[] = {
		{ .method = "events.subscribe", .reply = "{\"seq\": 1, \"subscription\": 1}" },
		{ .method = "job.wait", .silent = true, .reply = "{}" },
		{ 0 },
	};
	char buf[4096];
	struct fake f;
	pid_t pid;
	int tty;

	fake_start(&f, rules);
	pid = vmctl_on_tty(&f, &tty, "job", "wait", "j1", NULL);
	tty_expect(tty, "waiting for the job", buf, sizeof(buf));
	cr_assert_eq(write(tty, "\x03", 1), 1);
	tty_expect(tty, "vmctl: job j1 goes on", buf, sizeof(buf));
	cr_assert_eq(wait_exit(pid), 130);
	close(tty);
	fake_stop(&f);
}

Test(vmctl_tty, long_text_is_cut_at_a_terminal)
{
	static const struct fake_rule rules[] = {
		{ .method = "vm.list",
		  .reply = "{\"vms\": [{\"name\": \"web\", \"state\": \"running\", \"definition\": "
		           "{\"labels\": {\"note\": \"" LONG_WORD LONG_WORD "\"}}}]}" },
		{ 0 },
	};
	char buf[4096], *line;
	struct fake f;
	pid_t pid;
	int tty;

	fake_start(&f, rules);
	pid = vmctl_on_tty(&f, &tty, "list", "--fields", "definition.labels,name,state", NULL);
	tty_expect(tty, "running", buf, sizeof(buf));
	cr_assert_eq(wait_exit(pid), 0);
	line = strstr(buf, "note=");
	cr_assert_not_null(line);
	cr_assert_leq(strcspn(line, "\r\n"), 100, "%s", buf); /* as wide as that terminal is */
	close(tty);
	fake_stop(&f);
}

Test(vmctl_tty, delete_asks_at_a_terminal)
{
	static const struct fake_rule rules[] = { { .method = "vm.delete", .reply = "{}" }, { 0 } };
	char buf[4096];
	struct fake f;
	json_t *all;
	pid_t pid;
	int tty;

	fake_start(&f, rules);
	pid = vmctl_on_tty(&f, &tty, "del", "web", NULL); /* a prefix, at a terminal */
	tty_expect(tty, "[y/N]", buf, sizeof(buf));
	cr_assert_eq(write(tty, "n\n", 2), 2);
	cr_assert_eq(wait_exit(pid), 1);
	close(tty);
	all = fake_requests(&f);
	cr_assert_eq(json_array_size(all), 0);
	json_decref(all);
	fake_stop(&f);
}

Test(vmctl_tty, logs_follow_and_json)
{
	static const struct fake_rule rules[] = {
		{ .method = "vm.logs",
		  .reply = "{\"stream\": {\"fd\": 0}}",
		  .stream = "one\r\ntwo\x1b[2J." },
		{ 0 },
	};
	char buf[4096];
	struct fake f;
	pid_t pid;
	int tty;

	fake_start(&f, rules);
	pid = vmctl_on_tty(&f, &tty, "logs", "-f", "web", NULL);
	tty_expect(tty, "two.", buf, sizeof(buf));
	cr_assert_null(strstr(buf, "\x1b"));
	cr_assert_eq(write(tty, "\x03", 1), 1);
	cr_assert_eq(wait_exit(pid), -SIGINT);
	close(tty);
	pid = vmctl_on_tty(&f, &tty, "-o", "json", "logs", "-f", "web", NULL);
	tty_expect(tty, "{\"text\":\"one\\n\"}", buf, sizeof(buf));
	cr_assert_eq(write(tty, "\x03", 1), 1);
	cr_assert_eq(wait_exit(pid), -SIGINT);
	close(tty);
	fake_stop(&f);
}
