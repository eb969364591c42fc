/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "common/cleanup.h"
#include "common/macros.h"
#include "tests/fuzz/machine-box.h"

/*
 * A saved guest, changed in places by somebody who can make checksums right again, loaded into the
 * machine that it is of, or another one. It is refused with a reason, before a processor exists
 * when it is not KVM that refuses; or it is accepted, saved again as the same state, and the guest
 * runs on: its processors leave for any reason.
 *
 * Input: parts of the machine, then kind: 0 the rest is the file; others: how many changes, each of
 * (position:2, value:1), with 0xFFFF to cut and 0xFFFE to lengthen; then exits.
 */

#define PARTS       0xFF
#define STATE_AT    16
#define HEADER      32 /* of the state, the checksum at its end */
#define STATE_MAX   (128u << 10)
#define CPUID_FRONT 80  /* the head of its section, number of processors, kHz */
#define MACHINE_END 160 /* the section "machine" is within the first bytes */
#define GOODS       16
#define QMP_LOAD    "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"f\"}}"
#define QMP_BEGIN   "{\"execute\":\"qmp_capabilities\"}"
#define QMP_MIGRATE "{\"execute\":\"migrate-incoming\",\"arguments\":{\"uri\":\"fd:f\"}}"

struct good {
	unsigned parts;
	size_t len;
	uint8_t state[STATE_MAX];
};

static struct good goods[GOODS];
static unsigned n_goods;
static struct machine_box box;

/* The state as the file has it, without its head. */
static size_t save(uint8_t *state)
{
	struct snapshot s;
	struct vmd_error err = VMD_ERROR_INIT;
	int fd = memfd_create("saved", MFD_CLOEXEC), file = dup(fd);
	uint64_t len;

	snapshot_init(&s);
	FUZZ_CHECK(snapshot_save(&s, &box.machine, fd, &err) == 0);
	FUZZ_CHECK(snapshot_is_active(&s));
	FUZZ_CHECK(pread(file, &len, sizeof(len), 8) == sizeof(len) && len <= STATE_MAX);
	FUZZ_CHECK(pread(file, state, len, STATE_AT) == (ssize_t)len);
	snapshot_cancel(&s, &box.machine);
	snapshot_deinit(&s);
	close(file);
	return len;
}

/* Some bring-up of devices, so that there is more than power-on to save. */
static void prepare(struct machine_box *b)
{
	/* Memory and bus mastering on, in six slots; then ACKNOWLEDGE and DRIVER in each. */
	for (unsigned slot = 1; slot < 7; slot++) {
		uint64_t function = LAYOUT_ECAM + (slot << 15);
		uint64_t bar = bus_read(&b->machine.mmio, function + 0x10, 4) & ~0xFull;

		bus_write(&b->machine.mmio, function + 4, 2, 6);
		bus_write(&b->machine.mmio, bar + 0x14, 1, 3);
	}
	bus_write(&b->machine.pio, 0x3F8, 1, 'x');
	bus_write(&b->machine.pio, 0x70, 1, 0x30);
}

static const struct good *good_of(unsigned parts)
{
	struct vmd_error err = VMD_ERROR_INIT;
	struct good *g;

	for (unsigned i = 0; i < n_goods; i++)
		if (goods[i].parts == parts)
			return &goods[i];
	g = &goods[n_goods < GOODS ? n_goods++ : parts % GOODS];
	FUZZ_CHECK(machine_box_init(&box, parts | BOX_PAUSED, &err) == 0);
	prepare(&box);
	FUZZ_CHECK(machine_cont(&box.machine, &err) == 0);
	g->parts = parts;
	g->len = save(g->state);
	machine_box_deinit(&box);
	return g;
}

static void reseal(uint8_t *data, uint64_t len)
{
	uint64_t sum;

	if (len < HEADER)
		return;
	memcpy(data + 16, &len, 8);
	sum = XXH3_64bits_withSeed(data + HEADER, len - HEADER, XXH3_64bits(data, 24));
	memcpy(data + 24, &sum, 8);
}

static size_t change(struct fuzz_input *in, uint8_t *data, size_t len)
{
	for (uint64_t n = fuzz_take(in, 1) % 32; n && len; n--) {
		size_t at = fuzz_take(in, 2), value = fuzz_take(in, 1);

		if (at < len)
			data[at] = (uint8_t)value;
		else if (at == 0xFFFF)
			len -= MIN_OF(value, len);
		else if (at == 0xFFFE)
			len += value;
	}
	reseal(data, len);
	return len;
}

static int make_file(const uint8_t *state, uint64_t len)
{
	static const char magic[8] = "vmd-ram\1";
	int fd = memfd_create("file", MFD_CLOEXEC);

	FUZZ_CHECK(ftruncate(fd, SNAPSHOT_RAM_OFFSET + BOX_MEMORY) == 0);
	FUZZ_CHECK(pwrite(fd, magic, 8, 0) == 8 && pwrite(fd, &len, 8, 8) == 8);
	FUZZ_CHECK(pwrite(fd, state, len, STATE_AT) == (ssize_t)len);
	return fd;
}

static bool load(int fd)
{
	machine_box_send(&box, QMP_BEGIN, strlen(QMP_BEGIN), -EBADF);
	machine_box_send(&box, QMP_LOAD, strlen(QMP_LOAD), fd);
	machine_box_send(&box, QMP_MIGRATE, strlen(QMP_MIGRATE), -EBADF);
	machine_box_read(&box);
	FUZZ_CHECK(box.control.snapshot.status == SNAPSHOT_COMPLETED ||
	           box.control.snapshot.status == SNAPSHOT_FAILED);
	FUZZ_CHECK(box.control.snapshot.status == SNAPSHOT_COMPLETED ||
	           box.control.snapshot.error.message[0]);
	return box.control.snapshot.status == SNAPSHOT_COMPLETED;
}

/*
 * But for the clocks in the first section, the checksum, the event of the new generation, and the
 * frequency at the front of "cpuid", of which a little more or less is let pass.
 */
static void check_same(const uint8_t *state, size_t len)
{
	static uint8_t again[STATE_MAX];
	const uint8_t *cpuid = memmem(state, len, "cpuid", 5);
	size_t front = cpuid ? (size_t)(cpuid - state) : len;
	unsigned differ = 0;

	FUZZ_CHECK(save(again) == len);
	for (size_t i = MACHINE_END; i < len; i++) {
		if (state[i] == again[i] || (i >= front && i < front + CPUID_FRONT))
			continue;
		differ++;
		fprintf(stderr, "at %zu: %u loaded, %u saved\n", i, state[i], again[i]);
	}
	FUZZ_CHECK(differ <= 1);
}

static void run_on(struct fuzz_input *in)
{
	static uint8_t again[STATE_MAX];
	struct vmd_error err = VMD_ERROR_INIT;

	(void)machine_cont(&box.machine, &err);

	for (unsigned n = 0; in->left && n < 32; n++)
		machine_box_exit(&box, in);
	if (box.machine.status == MACHINE_RUNNING || box.machine.status == MACHINE_PAUSED)
		(void)save(again);
	if (box.machine.status != MACHINE_SHUTDOWN)
		(void)machine_reset(&box.machine, false, &err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t state[STATE_MAX + 65536];
	struct fuzz_input in = { data, size };
	struct vmd_error err = VMD_ERROR_INIT;
	unsigned of = (unsigned)fuzz_take(&in, 1) & PARTS, into = of;
	uint8_t kind = (uint8_t)fuzz_take(&in, 1);
	size_t len;
	int fd;

	if (kind == 0) {
		len = MIN_OF(in.left, STATE_MAX);
		memcpy(state, in.at, len);
		in.left = 0;
	} else {
		const struct good *g = good_of(of);

		if (kind > 250)
			into = (unsigned)fuzz_take(&in, 1) & PARTS;
		memcpy(state, g->state, g->len);
		len = change(&in, state, g->len);
	}
	fd = make_file(state, len);
	FUZZ_CHECK(machine_box_init(&box, into | BOX_INCOMING | BOX_PAUSED, &err) == 0);
	if (load(fd)) {
		check_same(state, len);
		run_on(&in);
	}
	machine_box_deinit(&box);
	close(fd);
	return 0;
}
