/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/macros.h"
#include "tests/fuzz/machine-box.h"

/*
 * The QMP server of a real machine: any bytes, commands that are right or nearly so, descriptors
 * that nobody asked for, a client that does not read and one that goes away, while the guest's
 * processors leave for any reason and KVM refuses calls. What comes back is lines of QMP, the
 * states of the machine are those that can be, and a machine that stands still has its processors
 * parked.
 *
 * Input: parts of the machine, then operations of a byte and what each of them takes.
 */

static struct machine_box box;
static int saved_fd; /* a file that a machine may be saved to */
static unsigned many_left;

#define MOST_OPS  60
#define MOST_SLOW 8 /* commands at once */
#define MOST_MANY 2 /* operations that send very much: they take long */

static const char *const commands[] = {
	"{\"execute\":\"qmp_capabilities\"}",
	"{\"execute\":\"query-status\",\"id\":1}",
	"{\"execute\":\"stop\"}",
	"{\"execute\":\"cont\"}",
	"{\"execute\":\"system_reset\"}",
	"{\"execute\":\"system_powerdown\"}",
	"{\"execute\":\"inject-nmi\"}",
	"{\"execute\":\"query-cpus-fast\"}",
	"{\"execute\":\"query-blockstats\"}",
	"{\"execute\":\"query-balloon\"}",
	"{\"execute\":\"balloon\",\"arguments\":{\"value\":8388608}}",
	"{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"f\"}}",
	"{\"execute\":\"closefd\",\"arguments\":{\"fdname\":\"f\"}}",
	"{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"fd:f\"}}",
	"{\"execute\":\"migrate-incoming\",\"arguments\":{\"uri\":\"fd:f\"}}",
	"{\"execute\":\"migrate_cancel\"}",
	"{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"max-bandwidth\":100000}}",
	"{\"execute\":\"query-migrate\"}",
	"{\"execute\":\"query-version\"}",
	"{\"execute\":\"query-name\"}{\"execute\":\"query-uuid\"}{\"execute\":\"query-kvm\"}",
	"{\"execute\":\"query-commands\"}",
	"{\"execute\":\"x-vmd-stats\"}",
	"{\"execute\":\"quit\"}",
	"{\"execute\":\"x\",\"arguments\":[]}",
};

static void op_command(struct fuzz_input *in)
{
	const char *text = commands[fuzz_take(in, 1) % ARRAY_SIZE(commands)];

	machine_box_send(&box, text, strlen(text), -EBADF);
}

/* A command with some bytes of it changed. */
static void op_damaged(struct fuzz_input *in)
{
	char text[128];
	size_t len;

	snprintf(text, sizeof(text), "%s", commands[fuzz_take(in, 1) % ARRAY_SIZE(commands)]);
	len = strlen(text);
	for (uint64_t n = fuzz_take(in, 1) % 4; n; n--) {
		size_t at = fuzz_take(in, 1) % len;

		text[at] = (char)fuzz_take(in, 1);
	}
	machine_box_send(&box, text, len, -EBADF);
}

static void op_bytes(struct fuzz_input *in)
{
	char text[256];
	size_t len = fuzz_take(in, 1);

	for (size_t i = 0; i < len; i++)
		text[i] = (char)fuzz_take(in, 1);
	machine_box_send(&box, text, len, -EBADF);
}

/* getfd as vmd sends it; the file is one, a pipe, or closed for writing. */
static void op_fd(struct fuzz_input *in)
{
	const char *text = commands[11];
	uint8_t how = (uint8_t)fuzz_take(in, 1) & 3;
	char path[64];
	int fd, other[2] = { -EBADF, -EBADF };

	if (how == 1) {
		FUZZ_CHECK(pipe2(other, O_CLOEXEC) == 0);
		fd = other[0];
	} else {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", saved_fd);
		fd = open(path, (how == 2 ? O_RDONLY : O_RDWR) | O_CLOEXEC);
	}
	machine_box_send(&box, text, strlen(text), fd);
	if (how != 1)
		close(fd);
	cleanup_close_p(&other[0]);
	cleanup_close_p(&other[1]);
}

static void op_exit(struct fuzz_input *in)
{
	machine_box_exit(&box, in);
}

static void op_read(struct fuzz_input *in UNUSED)
{
	machine_box_read(&box);
}

static void op_turns(struct fuzz_input *in UNUSED)
{
	for (unsigned i = 0; i < 20 && snapshot_is_active(&box.control.snapshot); i++)
		(void)machine_box_turn(&box);
	(void)machine_box_turn(&box);
}

/* Many events or replies that nobody reads; what takes long, a reset for one, not that often. */
static void op_flood(struct fuzz_input *in)
{
	const char *text = commands[fuzz_take(in, 1) % ARRAY_SIZE(commands)];
	static char bytes[4096];
	size_t len = strlen(text), n = strstr(text, "query-") ? sizeof(bytes) / len : MOST_SLOW;

	if (!many_left)
		return;
	many_left--;
	for (size_t i = 0; i < n; i++)
		memcpy(bytes + i * len, text, len);
	machine_box_send(&box, bytes, n * len, -EBADF);
}

/* A message that does not end, or a very deep one. */
static void op_long(struct fuzz_input *in)
{
	static char bytes[4096];
	uint8_t how = (uint8_t)fuzz_take(in, 1);

	if (!many_left)
		return;
	many_left--;
	machine_box_send(&box, "{\"", 2, -EBADF);
	memset(bytes, how & 1 ? '[' : 'a', sizeof(bytes));
	for (unsigned n = how >= 0xC0 ? how >> 1 & 31 : how >> 1 & 1; n; n--)
		machine_box_send(&box, bytes, sizeof(bytes), -EBADF);
}

static void op_fail(struct fuzz_input *in)
{
	static const int errors[] = { EINVAL, ENOMEM, EIO, ENOTTY };
	unsigned n = 1 + fuzz_take(in, 1) % 64;

	fake_kvm_fail(n, errors[fuzz_take(in, 1) % ARRAY_SIZE(errors)]);
}

static void op_hang_up(struct fuzz_input *in)
{
	/* Not often: nothing is left to say afterwards. */
	if (fuzz_take(in, 1) & 7)
		return;
	cleanup_close_p(&box.qmp);
	(void)machine_box_turn(&box);
}

static void op_console(struct fuzz_input *in)
{
	char bytes[32];

	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (char)fuzz_take(in, 1);
	if (box.console >= 0 && write(box.console, bytes, sizeof(bytes)) < 0)
		cleanup_close_p(&box.console);
}

static void (*const ops[])(struct fuzz_input *in) = {
	op_command, op_exit,    op_damaged, op_read,  op_command, op_exit,  op_bytes,
	op_fd,      op_command, op_exit,    op_turns, op_fail,    op_flood, op_hang_up,
	op_console, op_read,    op_long,    op_exit,  op_command, op_turns,
};

static void check(void)
{
	const struct machine *m = &box.machine;
	bool wants = atomic_load(&m->vcpus.want) == VCPUS_RUN;

	FUZZ_CHECK(m->status < _MACHINE_STATUS_MAX);
	FUZZ_CHECK(!wants || m->status == MACHINE_RUNNING);
	FUZZ_CHECK(box.control.n_received <= CONTROL_MAX_FDS);
	FUZZ_CHECK(!snapshot_is_active(&box.control.snapshot) ||
	           m->status == MACHINE_FINISH_MIGRATE || m->status == MACHINE_SHUTDOWN);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input in = { data, size };
	struct vmd_error err = VMD_ERROR_INIT;
	unsigned parts = (unsigned)fuzz_take(&in, 2);
	int r;

	many_left = MOST_MANY;
	saved_fd = memfd_create("saved", MFD_CLOEXEC);
	r = machine_box_init(&box, parts & 0x3FF, &err);
	if (parts & 0x4000)
		machine_box_send(&box, commands[0], strlen(commands[0]), -EBADF);
	FUZZ_CHECK(r == 0);
	for (unsigned n = 0; in.left && n < MOST_OPS && box.machine.status != MACHINE_SHUTDOWN;
	     n++) {
		ops[fuzz_take(&in, 1) % ARRAY_SIZE(ops)](&in);
		check();
	}
	machine_box_read(&box);
	machine_box_deinit(&box);
	close(saved_fd);
	return 0;
}
