/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include <xxhash.h>

#include "common/cleanup.h"
#include "common/macros.h"
#include "devices/acpi-power.h"
#include "devices/bus.h"
#include "devices/i8042.h"
#include "devices/pvpanic.h"
#include "devices/rtc-cmos.h"
#include "devices/serial-8250.h"
#include "devices/test-device.h"
#include "tests/fuzz/fuzz.h"

/*
 * The small chips: every port at every width, while the serial line's other end sends, takes, does
 * not take and hangs up, and the machine is saved, loaded from anything, and reset. Interrupt lines
 * are as the chips think they are, FIFO and ring stay within their bounds, the rest of the machine
 * is only asked for what it knows, what is saved is loaded and saved as the same bytes, and nobody
 * writes to a descriptor after it was closed.
 *
 * Input: operations of a byte and what each of them takes.
 */

static struct bus pio;
static struct ioloop *loop;
static struct serial serial;
static struct rtc_cmos rtc;
static struct i8042 i8042;
static struct acpi_power power;
static struct pvpanic pvpanic;
static struct test_device test;
static int peer, bystander; /* takes the number of what was closed */
static bool lines[24];
static unsigned pulses;     /* of the event device, which is edge-triggered */
static uint64_t flood_left; /* bytes; more of them reach nothing new, and take long */

#define FLOOD_BYTES (SERIAL_RING_BYTES + 1024u)

static void set_line(struct irqchip *c UNUSED, unsigned gsi, bool high)
{
	FUZZ_CHECK(gsi < 24);
	pulses += gsi == ACPI_EVENT_GSI && high && !lines[gsi];
	__atomic_store_n(&lines[gsi], high, __ATOMIC_SEQ_CST);
}

static const struct irqchip_ops irq_ops = { .set_line = set_line };
static struct irqchip irqchip = { &irq_ops };

static void on_event(struct platform *p UNUSED, enum platform_event event, unsigned value)
{
	FUZZ_CHECK(event <= PLATFORM_TEST_EXIT && (event == PLATFORM_TEST_EXIT || value == 0));
}

static struct platform platform = { on_event };

static void nothing(void *arg UNUSED)
{
}

static void settle(void)
{
	ioloop_call(loop, nothing, NULL);
	ioloop_call(loop, nothing, NULL);
}

static uint64_t take_port(struct fuzz_input *in)
{
	static const uint16_t ports[] = { SERIAL_PORT,     0x70, 0x60, 0x64, PVPANIC_PORT,
		                          ACPI_POWER_PORT, 0xF4, 0xF1 };
	uint8_t which = (uint8_t)fuzz_take(in, 1);

	if (which == 0xFF)
		return fuzz_take(in, 2);
	/* One before the first register to beyond the last. */
	return (uint64_t)ports[which & 7] + (which >> 3 & 15) - (which >> 7);
}

static void op_write(struct fuzz_input *in)
{
	uint64_t port = take_port(in);
	unsigned size = 1u << fuzz_take(in, 1) % 4;

	bus_write(&pio, port, size, fuzz_take(in, size));
}

static void op_serial(struct fuzz_input *in)
{
	uint8_t what = (uint8_t)fuzz_take(in, 1);

	if (what & 8)
		(void)bus_read(&pio, SERIAL_PORT + (what & 7), 1);
	else
		bus_write(&pio, SERIAL_PORT + (what & 7), 1, fuzz_take(in, 1));
}

static void op_read(struct fuzz_input *in)
{
	uint64_t port = take_port(in);

	(void)bus_read(&pio, port, 1u << fuzz_take(in, 1) % 4);
}

static void op_rtc(struct fuzz_input *in)
{
	uint8_t index = (uint8_t)fuzz_take(in, 1);

	bus_write(&pio, 0x70, 1, index & 0x7F);
	if (index & 0x80)
		bus_write(&pio, 0x71, 1, fuzz_take(in, 1));
	FUZZ_CHECK(bus_read(&pio, 0x71, 1) <= 0xFF);
}

/* A whole ring of output, and more. */
static void op_flood(struct fuzz_input *in)
{
	uint64_t n = MIN_OF(fuzz_take(in, 1) * 32, flood_left);

	flood_left -= n;
	while (n--)
		bus_write(&pio, SERIAL_PORT, 1, n);
}

static void op_send(struct fuzz_input *in)
{
	uint8_t bytes[64];
	size_t n = fuzz_take(in, 1) & 63;

	for (size_t i = 0; i < n; i++)
		bytes[i] = (uint8_t)fuzz_take(in, 1);
	if (peer >= 0)
		(void)!send(peer, bytes, n, MSG_NOSIGNAL);
	settle();
}

static void op_take(struct fuzz_input *in UNUSED)
{
	static uint8_t bytes[65536];

	if (peer >= 0)
		(void)!read(peer, bytes, sizeof(bytes));
	settle();
}

static void op_hang_up(struct fuzz_input *in)
{
	if (fuzz_take(in, 1) & 3)
		return;
	cleanup_close_p(&peer);
	settle();
	if (bystander < 0)
		bystander = memfd_create("bystander", MFD_CLOEXEC);
}

static void op_machine(struct fuzz_input *in)
{
	unsigned before = pulses;

	switch (fuzz_take(in, 1) & 3) {
	case 0:
		serial_reset(&serial);
		acpi_power_reset(&power);
		break;
	case 1:
		serial_drain(&serial);
		break;
	case 2:
		acpi_power_raise(&power, ACPI_EVENT_POWER_BUTTON);
		FUZZ_CHECK(pulses > before);
		break;
	default:
		acpi_power_raise(&power, ACPI_EVENT_GENERATION);
	}
}

/* The loop is paused. */
static void save(struct state_out *o)
{
	state_out_init(o);
	serial_save(&serial, o);
	rtc_cmos_save(&rtc, o);
	acpi_power_save(&power, o);
	FUZZ_CHECK(state_finish(o) == 0);
}

static bool load(const uint8_t *data, size_t len, struct vmd_error *err)
{
	struct state_in in;
	int r = state_open(&in, data, len, err);

	if (r == 0)
		r = serial_load(&serial, &in, err);
	if (r == 0)
		r = rtc_cmos_load(&rtc, &in, err);
	if (r == 0)
		r = acpi_power_load(&power, &in, err);
	if (r == 0)
		r = state_close(&in, err);
	FUZZ_CHECK((r < 0) == (err->kind != ERROR_NONE) && (r == 0 || *err->message));
	return r == 0;
}

/* Changed in places, the checksum made right again. What is accepted is saved as the same. */
static void op_state(struct fuzz_input *in)
{
	unsigned changes = fuzz_take(in, 1) % 8;
	struct vmd_error err = VMD_ERROR_INIT;
	struct state_out o, again;
	uint64_t sum;

	ioloop_pause(loop);
	save(&o);
	for (unsigned i = 0; i < changes; i++) {
		size_t at = fuzz_take(in, 2) % o.len;

		o.data[at] = (uint8_t)fuzz_take(in, 1);
	}
	sum = XXH3_64bits_withSeed(o.data + 32, o.len - 32, XXH3_64bits(o.data, 24));
	memcpy(o.data + 24, &sum, 8);
	if (load(o.data, o.len, &err)) {
		/* The interrupt controller's own state would say so. */
		lines[SERIAL_GSI] = serial.line;
		save(&again);
		FUZZ_CHECK(again.len == o.len && !memcmp(again.data, o.data, o.len));
		state_out_deinit(&again);
	} else {
		/* What was saved is loaded. */
		if (!changes)
			fprintf(stderr, "refused: %s\n", err.message);
		FUZZ_CHECK(changes);
	}
	state_out_deinit(&o);
	ioloop_resume(loop);
	settle();
}

static void (*const ops[])(struct fuzz_input *in) = {
	op_serial, op_write, op_read, op_rtc,     op_send,    op_take,  op_serial, op_write,
	op_serial, op_flood, op_read, op_hang_up, op_machine, op_state, op_serial, op_send,
};

static void check(void)
{
	struct serial_stats stats;

	pthread_mutex_lock(&serial.lock);
	FUZZ_CHECK(serial.fifo_len <= SERIAL_FIFO_BYTES && serial.fifo_at < SERIAL_FIFO_BYTES);
	FUZZ_CHECK(serial.ring_len <= SERIAL_RING_BYTES && serial.ring_at < SERIAL_RING_BYTES);
	FUZZ_CHECK(serial.line == lines[SERIAL_GSI]);
	pthread_mutex_unlock(&serial.lock);
	FUZZ_CHECK(!lines[ACPI_EVENT_GSI] && !(power.events & ~3));
	serial_get_stats(&serial, &stats);
}

static void set_up(void)
{
	int sv[2];

	memset(lines, 0, sizeof(lines));
	flood_left = FLOOD_BYTES;
	bus_init(&pio);
	FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sv) == 0);
	peer = sv[1];
	bystander = -EBADF;
	FUZZ_CHECK(ioloop_new("fuzz", &loop) == 0);
	FUZZ_CHECK(serial_init(&serial, &pio, &irqchip, loop, sv[0]) == 0);
	FUZZ_CHECK(rtc_cmos_init(&rtc, &pio) == 0 && i8042_init(&i8042, &pio, &platform) == 0);
	FUZZ_CHECK(acpi_power_init(&power, &pio, &irqchip, &platform) == 0);
	FUZZ_CHECK(pvpanic_init(&pvpanic, &pio, &platform) == 0);
	FUZZ_CHECK(test_device_init(&test, &pio, &platform, sv[0]) == 0);
	FUZZ_CHECK(ioloop_start(loop) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input in = { data, size };

	set_up();
	for (unsigned n = 0; in.left && n < 300; n++) {
		ops[fuzz_take(&in, 1) % ARRAY_SIZE(ops)](&in);
		check();
	}
	loop = ioloop_free(loop);
	serial_deinit(&serial, &pio);
	rtc_cmos_deinit(&rtc, &pio);
	i8042_deinit(&i8042, &pio);
	acpi_power_deinit(&power, &pio);
	pvpanic_deinit(&pvpanic, &pio);
	test_device_deinit(&test, &pio);
	FUZZ_CHECK(pio.n == 0);
	bus_deinit(&pio);
	cleanup_close_p(&peer);
	FUZZ_CHECK(bystander < 0 || lseek(bystander, 0, SEEK_END) == 0);
	cleanup_close_p(&bystander);
	return 0;
}
