/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

/* What must not end a guest or start half of one: bad launch documents, bad clients. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/fdio.h"
#include "common/jsonx.h"
#include "tests/unit/shim-fixture.h"

TestSuite(shim_abuse, .timeout = 120);

/* vmd-shim with this document as descriptor 3 and a pipe as 2 and 4; what it wrote, its status. */
static void run_doc(const char *doc, size_t len, char *output, size_t size,
                    struct proc_status *status)
{
	char *argv[] = { (char *)"vmd-shim", (char *)"test", NULL };
	cleanup_close int fd = memfd_create("doc", MFD_CLOEXEC), pidfd = -EBADF;
	int pipes[2];
	struct spawn_fd fds[3];
	struct spawn_spec spec = {
		.path = getenv("VMD_SHIM"), .argv = argv, .fds = fds, .n_fds = 3, .null_stdio = true
	};
	struct pollfd p;
	ssize_t n;
	pid_t pid;

	cr_assert_eq(fd_write_all(fd, doc, len), 0);
	cr_assert_eq(pipe2(pipes, O_CLOEXEC), 0);
	fds[0] = (struct spawn_fd){ fd, 3 };
	fds[1] = (struct spawn_fd){ pipes[1], 4 };
	fds[2] = (struct spawn_fd){ pipes[1], 2 };
	cr_assert_eq(proc_spawn(&spec, &pid, &pidfd, NULL), 0);
	close(pipes[1]);
	n = fd_read_all(pipes[0], output, size - 1);
	output[MAX_OF(n, 0)] = '\0';
	close(pipes[0]);
	/* A document that was good after all: the shim stays. */
	if (strstr(output, "{\"ok\":true"))
		cr_assert_eq(proc_signal(pidfd, SIGKILL), 0);
	p = (struct pollfd){ .fd = pidfd, .events = POLLIN };
	cr_assert_eq(poll(&p, 1, 10000), 1, "vmd-shim hangs on: %s", doc);
	cr_assert_eq(proc_reap(pidfd, status), 1);
}

static void expect_bad(const char *doc, const char *why)
{
	struct proc_status status;
	char output[4096];

	run_doc(doc, strlen(doc), output, sizeof(output), &status);
	cr_assert(status.exited && status.code == 65, "%s: ended with %d: %s", doc, status.code,
	          output);
	cr_assert_not_null(strstr(output, why), "%s: said: %s", doc, output);
}

#define HEAD                                 \
	"{\"version\":1,\"uuid\":\"" FX_UUID \
	"\",\"name\":\"test\",\"runtime_dir\":\"/tmp/x\",\"state_dir\":\"/tmp/x\",\"ready_fd\":4"
#define PROC(fds) ",\"procs\":[{\"name\":\"engine\",\"argv\":[\"/bin/true\"],\"fds\":" fds "}]}"

static void bad_documents(struct fx *fx)
{
	static const struct {
		const char *doc, *why;
	} cases[] = {
		{ "", "malformed JSON" },
		{ "[]", "not of version 1" },
		{ "{\"version\":2}", "not of version 1" },
		{ "{\"version\":1,\"uuid\":\"../../etc\"}", "'uuid' or 'name'" },
		{ "[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]", "nested deeper" },
		{ "{\"version\":1,\"version\":1}", "duplicate" },
		{ HEAD "}", "'procs'" },
		{ HEAD ",\"procs\":{}}", "'procs'" },
		{ HEAD ",\"procs\":[]}", "'procs'" },
		{ HEAD ",\"procs\":[1]}", "usable 'name'" },
		{ HEAD ",\"procs\":[{\"name\":\"engine\"}]}", "'argv'" },
		{ HEAD ",\"procs\":[{\"name\":\"engine\",\"argv\":[]}]}", "'argv'" },
		{ HEAD ",\"procs\":[{\"name\":\"engine\",\"argv\":[1]}]}", "'argv'" },
		{ HEAD ",\"procs\":[{\"name\":\"engine\",\"argv\":[\"\"]}]}", "names no program" },
		{ HEAD PROC("[4]"), "'fds'" },
		{ HEAD PROC("[[4,5]]"), "no open descriptor" },
		{ HEAD PROC("[[700,5]]"), "no open descriptor" },
		{ HEAD PROC("[[-1,5]]"), "no open descriptor" },
		{ HEAD PROC("[[2,5]]"), "no open descriptor" },
		{ HEAD PROC("[],\"vital\":1"), "'vital'" },
		{ HEAD PROC("[],\"jail\":\"yes\""), "'jail'" },
		{ HEAD PROC("[],\"grace_ms\":-1"), "'grace_ms'" },
		{ HEAD PROC("[],\"grace_ms\":99999999"), "'grace_ms'" },
		{ HEAD ",\"qmp_fd\":99" PROC("[]"), "'qmp_fd'" },
		{ HEAD ",\"lock_fd\":\"4\"" PROC("[]"), "'lock_fd'" },
		{ HEAD ",\"gate_fd\":99" PROC("[]"), "'gate_fd'" },
		{ HEAD ",\"ring_bytes\":1" PROC("[]"), "'ring_bytes'" },
		{ HEAD ",\"ring_bytes\":99999999999" PROC("[]"), "'ring_bytes'" },
		{ HEAD ",\"log_files\":0" PROC("[]"), "'log_files'" },
		{ HEAD ",\"log_max_bytes\":-1" PROC("[]"), "'log_max_bytes'" },
	};

	(void)fx;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		expect_bad(cases[i].doc, cases[i].why);
}

Test(shim_abuse, bad_launch_documents)
{
	fx_run(bad_documents);
}

static void no_document(struct fx *fx)
{
	char *argv[] = { (char *)"vmd-shim", (char *)"test", NULL };
	struct spawn_spec spec = { .path = getenv("VMD_SHIM"), .argv = argv, .null_stdio = true };
	cleanup_close int pidfd = -EBADF;
	struct proc_status status;
	pid_t pid;

	cr_assert_eq(proc_spawn(&spec, &pid, &pidfd, NULL), 0);
	cr_assert_eq(fiber_wait_fd(pidfd, EV_READ, 10000), 0);
	cr_assert_eq(proc_reap(pidfd, &status), 1);
	cr_assert(status.exited && status.code == 65);
	/* The state directory's trouble is not the guest's; the runtime directory's is. */
	struct vmd_error err = VMD_ERROR_INIT;

	fx->params.runtime_dir = "/nonexistent/run";
	fx_engine(fx, "exit 0", false);
	cr_assert_eq(fx_start(fx, &err), -EREMOTEIO);
	cr_assert_not_null(strstr(err.message, "/nonexistent/run"), "%s", err.message);
	cr_assert_not_null(strstr(err.message, "socket"), "%s", err.message);
}

Test(shim_abuse, no_document_no_directory)
{
	fx_run(no_document);
}

static void fuzz(struct fx *fx)
{
	unsigned seed = 20261123, started = 0;
	char doc[1024], output[4096];
	struct proc_status status;

	for (int i = 0; i < 400; i++) {
		size_t len;

		len = (size_t)snprintf(doc, sizeof(doc),
		                       "{\"version\":1,\"uuid\":\"" FX_UUID "\",\"name\":\"test\","
		                       "\"runtime_dir\":\"%s\",\"state_dir\":\"%s\",\"ready_fd\":4,"
		                       "\"procs\":[{\"name\":\"engine\",\"argv\":[\"/bin/true\"],"
		                       "\"fds\":[],\"vital\":true}]}",
		                       fx->run, fx->state);
		for (int k = 0; k < 1 + i % 3; k++)
			doc[(size_t)rand_r(&seed) % len] = (char)(rand_r(&seed) & 0xff);
		if (i % 7 == 0)
			len = (size_t)rand_r(&seed) % len;
		run_doc(doc, len, output, sizeof(output), &status);
		if (strstr(output, "{\"ok\":true"))
			started++;
		else
			cr_assert(status.exited && (status.code == 65 || status.code == 1),
			          "%.*s: %s", (int)len, doc, output);
	}
	cr_log_info("%u of 400 were still good\n", started);
}

Test(shim_abuse, fuzzed_launch_documents)
{
	fx_run(fuzz);
}

/* vmd moves the shim into a control group of its own before it opens the gate. */
static void gate(struct fx *fx)
{
	char *argv[] = { (char *)"vmd-shim", (char *)"test", NULL };
	cleanup_close int fd = memfd_create("doc", MFD_CLOEXEC), pidfd = -EBADF;
	int told[2], gates[2];
	struct spawn_fd fds[3];
	struct spawn_spec spec = {
		.path = getenv("VMD_SHIM"), .argv = argv, .fds = fds, .n_fds = 3, .null_stdio = true
	};
	char doc[1024], output[512];
	struct proc_status status;
	pid_t pid;
	int len =
		snprintf(doc, sizeof(doc),
	                 "{\"version\":1,\"uuid\":\"" FX_UUID "\",\"name\":\"test\","
	                 "\"runtime_dir\":\"%s\",\"state_dir\":\"%s\",\"ready_fd\":4,\"gate_fd\":5,"
	                 "\"procs\":[{\"name\":\"engine\",\"argv\":[\"/bin/sleep\",\"60\"],"
	                 "\"fds\":[],\"vital\":true}]}",
	                 fx->run, fx->state);

	cr_assert_eq(fd_write_all(fd, doc, (size_t)len), 0);
	cr_assert_eq(pipe2(told, O_CLOEXEC), 0);
	cr_assert_eq(pipe2(gates, O_CLOEXEC), 0);
	fds[0] = (struct spawn_fd){ fd, 3 };
	fds[1] = (struct spawn_fd){ told[1], 4 };
	fds[2] = (struct spawn_fd){ gates[0], 5 };
	cr_assert_eq(proc_spawn(&spec, &pid, &pidfd, NULL), 0);
	close(told[1]);
	close(gates[0]);
	cr_assert_eq(fiber_wait_fd(told[0], EV_READ, 500), -ETIMEDOUT, "it did not wait");
	close(gates[1]);
	cr_assert_eq(fiber_wait_fd(told[0], EV_READ, 10000), 0);
	cr_assert_gt(fd_read_all(told[0], output, sizeof(output) - 1), 0);
	cr_assert_eq(strncmp(output, "{\"ok\":true", 10), 0);
	close(told[0]);
	cr_assert_eq(proc_signal(pidfd, SIGKILL), 0);
	cr_assert_eq(fiber_wait_fd(pidfd, EV_READ, 10000), 0);
	cr_assert_eq(proc_reap(pidfd, &status), 1);
}

Test(shim_abuse, nothing_starts_before_the_gate_opens)
{
	fx_run(gate);
}

static int connect_raw(const struct fx *fx)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%.90s/shim.sock", fx->run);
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0)
		return fd;
	close(fd);
	return -errno;
}

/* The reply to raw bytes; NULL when the shim hangs up. */
static json_t *ask(int fd, const char *bytes, size_t len)
{
	static char reply[65536];
	ssize_t n;

	cr_assert_eq(send(fd, bytes, len, MSG_NOSIGNAL), (ssize_t)len);
	cr_assert_eq(fiber_wait_fd(fd, EV_READ, 10000), 0);
	n = recv(fd, reply, sizeof(reply), 0);
	return n > 0 ? jsonx_parse(reply, (size_t)n, 8, NULL) : NULL;
}

static unsigned count_fds(pid_t pid)
{
	cleanup_dir DIR *dir = NULL;
	unsigned n = 0;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	dir = opendir(path);
	cr_assert_not_null(dir);
	while (readdir(dir))
		n++;
	return n;
}

static void bad_requests(struct fx *fx)
{
	static const struct {
		const char *text;
		int number;
	} cases[] = {
		{ "nonsense", EBADMSG },
		{ "[1]", EBADMSG },
		{ "{\"id\":1,\"id\":2}", EBADMSG },
		{ "{\"id\":1,\"op\":\"self-destruct\"}", ENOSYS },
		{ "{\"id\":1}", ENOSYS },
		{ "{\"id\":1,\"op\":{\"a\":1}}", ENOSYS },
		{ "{\"id\":1,\"op\":\"signal\"}", EINVAL },
		{ "{\"id\":1,\"op\":\"signal\",\"signal\":9}", EINVAL },
		{ "{\"id\":1,\"op\":\"signal\",\"signal\":\"SEGV\"}", EINVAL },
		{ "{\"id\":1,\"op\":\"release\"}", EBUSY },
		{ "{\"id\":1,\"op\":\"x\",\"a\":[[[[[[]]]]]]}", EBADMSG },
	};
	static char big[60000];
	int fds[20];
	unsigned before;

	fx_must_start(fx, "exec sleep 1000");
	cleanup_close int fd = connect_raw(fx);

	cr_assert_geq(fd, 0);
	json_decref(ask(fd, "{}", 2));
	before = count_fds(fx_shim_pid(fx));
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		cleanup_json json_t *reply = ask(fd, cases[i].text, strlen(cases[i].text));

		cr_assert_eq(jsonx_int(reply, "errno", 0), cases[i].number, "%s", cases[i].text);
	}
	memset(big, ' ', sizeof(big));
	memcpy(big, "{\"id\":1}", 8);
	cleanup_json json_t *reply = ask(fd, big, sizeof(big));

	cr_assert_eq(jsonx_int(reply, "errno", 0), EMSGSIZE);
	/* Descriptors that nobody asked for are closed. */
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		fds[i] = 0;
	cr_assert_eq(fd_send(fd, "{\"id\":1}", 8, fds, 20), 8);
	json_decref(ask(fd, "{}", 2));
	cr_assert_eq(count_fds(fx_shim_pid(fx)), before);
	cr_assert(fx_alive(shim_pid(fx->shim)));
}

Test(shim_abuse, bad_requests)
{
	fx_run(bad_requests);
}

static void deaf_clients(struct fx *fx)
{
	struct vmd_error err = VMD_ERROR_INIT;
	int fds[100], n = 0;

	fx_must_start(fx, "exec sleep 1000");
	/* One that asks and never reads its answers is dropped. */
	for (int i = 0; i < 3; i++) {
		int fd = connect_raw(fx), r = 0;

		cr_assert_geq(fd, 0);
		for (int k = 0; k < 100000 && r >= 0; k++) {
			if (send(fd, "{\"op\":\"hello\"}", 14, MSG_NOSIGNAL) < 0)
				r = errno == EAGAIN ? fiber_wait_fd(fd, EV_WRITE, 1000) : -errno;
		}
		cr_assert(r == -EPIPE || r == -ECONNRESET, "%d", r);
		close(fd);
	}
	/* Many that say nothing: places are limited, the rest are hung up on at once. */
	while (n < 100 && (fds[n] = connect_raw(fx)) >= 0)
		n++;
	fd_close_many(fds, (size_t)n);
	for (int i = 0; i < 200; i++) {
		struct shim *again = NULL;

		if (shim_attach(fx->run, FX_UUID, 1000, &fx_ops, fx, &again, &err) == 0) {
			shim_free(fx->shim);
			fx->shim = again;
			break;
		}
		err = (struct vmd_error)VMD_ERROR_INIT;
		(void)fiber_sleep_ms(10);
	}
	cr_assert_eq(err.kind, ERROR_NONE, "%s", err.message);
	cr_assert_eq(shim_signal(fx->shim, SIGKILL), 0);
	fx_wait(fx, &fx->exited);
	cr_assert_not(fx->lost);
	fx_release(fx);
}

Test(shim_abuse, clients_that_do_not_read)
{
	fx_run(deaf_clients);
}

/*
 * Memory of its own with a full ring and a log read by four: anonymous pages. Those of the program
 * are shared by all shims, and only count as private while there is one.
 */
static void memory(struct fx *fx)
{
	cleanup_free char *text = NULL;
	unsigned long kib = 0;
	struct shim_logs_opts opts = { .tail = -1, .follow = true };
	char path[64], data[4096] = "";
	int fds[4], fd;

#ifdef VMD_SANITIZERS
	cr_skip_test("sanitizers need memory of their own");
#endif
	fx_must_start(fx, "seq 1 200000 >&3; seq 1 5000 >&2; read x <&3");
	for (int i = 0; i < 4; i++)
		cr_assert_eq(shim_logs(fx->shim, &opts, &fds[i], NULL), 0);
	cr_assert_eq(shim_console(fx->shim, true, true, 0, &fd, NULL), 0);
	text = fx_read(fd, "\n200000\n", NULL);
	snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", fx_shim_pid(fx));
	cleanup_close int smaps = open(path, O_RDONLY | O_CLOEXEC);

	cr_assert_gt(fd_read_all(smaps, data, sizeof(data) - 1), 0);
	cr_assert_eq(sscanf(strstr(data, "Anonymous:"), "Anonymous: %lu", &kib), 1);
	fd_close_many(fds, 4);
	close(fd);
	cr_assert_lt(kib, 500, "%lu KiB of private memory", kib);
	cr_log_info("%lu KiB of private memory\n", kib);
}

Test(shim_abuse, private_memory_stays_small)
{
	fx_run(memory);
}
