/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The guest's devices: those it always has, and those its configuration asks for. */
#include "config.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/macros.h"
#include "common/timeutil.h"
#include "devices/vmgenid.h"
#include "vmm/control.h"
#include "vmm/machine.h"

/* Small devices share a thread; it exists when the first of them does. */
static int small_loop(struct machine *m)
{
	return m->io ? 0 : ioloop_new("io", &m->io);
}

static int add_to_bus(struct machine *m, struct virtio_device *d, struct ioloop *own,
                      struct vmd_error *err)
{
	struct machine_device *slot = &m->devices[m->n_devices++];

	slot->device = d;
	slot->loop = own;
	return virtio_pci_new(&m->pci, &m->irqs.doorbells, d, -1, &slot->transport, err);
}

static int cannot(int r, const char *what, struct vmd_error *err)
{
	return error_set_errno(err, -r, "cannot make device '%s'", what);
}

/* In the disk's loop. */
static void on_io_error(void *arg, bool write, int error)
{
	struct machine_device *slot = arg;

	atomic_store(&slot->io_error, (unsigned)error << 1 | write);
	machine_note_io_error(slot->machine);
}

void machine_tell_io_errors(struct machine *m)
{
	uint64_t now = now_monotonic_us();

	for (unsigned i = 0; i < m->n_devices; i++) {
		struct machine_device *slot = &m->devices[i];
		unsigned e = atomic_exchange(&slot->io_error, 0);

		/* A guest can make errors at will. */
		if (!e || (slot->io_error_told_us && now - slot->io_error_told_us < 1000000))
			continue;
		slot->io_error_told_us = now;
		control_event(m->control, "BLOCK_IO_ERROR",
		              json_pack("{s:s, s:s, s:s, s:b, s:s}", "device", slot->device->id,
		                        "operation", e & 1 ? "write" : "read", "action", "report",
		                        "nospace", (int)(e >> 1 == ENOSPC), "reason",
		                        strerror((int)(e >> 1))));
	}
}

static int add_disk(struct machine *m, const struct vmm_disk *c, struct vmd_error *err)
{
	bool remote = c->vhost_user_fd >= 0;
	struct virtio_blk_config blk = { .id = c->id,
		                         .fd = remote ? c->vhost_user_fd : c->fd,
		                         .remote = remote,
		                         .memory_fd = m->memory.fd,
		                         .readonly = c->readonly,
		                         .discard = c->discard,
		                         .cache = c->cache,
		                         .serial = c->serial[0] ? c->serial : NULL,
		                         .n_queues = c->queues,
		                         .limits = c->limits,
		                         .on_error = on_io_error,
		                         .on_error_arg = &m->devices[m->n_devices] };
	struct virtio_device *d = NULL;
	struct ioloop *loop = NULL;
	int r = ioloop_new(c->id, &loop);

	m->devices[m->n_devices].machine = m;
	if (r == 0)
		r = virtio_blk_new(&blk, &m->memory.mem, loop, &d);
	if (r < 0) {
		(void)ioloop_free(loop);
		return cannot(r, c->id, err);
	}
	return add_to_bus(m, d, loop, err);
}

/* A stream whose other end is gone: the guest sees no link. */
static int no_peer(void)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		return -errno;
	close(pair[1]);
	return pair[0];
}

static int add_nic(struct machine *m, const struct vmm_nic *c, struct vmd_error *err)
{
	struct virtio_net_config net = { .id = c->id,
		                         .mtu = (uint16_t)c->mtu,
		                         .n_pairs = MAX_OF(c->n_taps, 1u),
		                         .stream_fd = c->stream_fd };
	struct virtio_device *d = NULL;
	struct ioloop *loop = NULL;
	int r = ioloop_new(c->id, &loop), own = -EBADF;

	memcpy(net.mac, c->mac, sizeof(net.mac));
	for (unsigned i = 0; i < VIRTIO_NET_MAX_PAIRS; i++)
		net.tap_fds[i] = i < c->n_taps ? c->tap_fds[i] : -EBADF;
	if (r == 0 && !c->n_taps && c->stream_fd < 0)
		r = net.stream_fd = own = no_peer();
	if (r >= 0)
		r = virtio_net_new(&net, &m->memory.mem, loop, &d);
	if (r < 0) {
		cleanup_close_p(&own);
		(void)ioloop_free(loop);
		return cannot(r, c->id, err);
	}
	return add_to_bus(m, d, loop, err);
}

/* Port 0 is the console; without one, nobody is there. */
static int add_console(struct machine *m, struct vmd_error *err)
{
	const struct vmm_config *c = m->config;
	bool console = c->console_fd >= 0 && c->console == VMM_CONSOLE_VIRTIO;
	struct virtio_console_config v = { .id = "console0", .n_ports = 1 + c->n_ports };
	struct virtio_device *d;
	int r;

	if (!console && !c->n_ports)
		return 0;
	v.ports[0].fd = console ? c->console_fd : -EBADF;
	for (unsigned i = 0; i < c->n_ports; i++)
		v.ports[i + 1] = (struct virtio_console_port){ .name = c->ports[i].name,
			                                       .fd = c->ports[i].fd };
	r = small_loop(m);
	if (r == 0)
		r = virtio_console_new(&v, &m->memory.mem, m->io, &d);
	return r < 0 ? cannot(r, "console0", err) : add_to_bus(m, d, NULL, err);
}

static int add_rng(struct machine *m, struct vmd_error *err)
{
	struct virtio_device *d;
	int r = small_loop(m);

	if (r == 0)
		r = virtio_rng_new("rng0", &m->memory.mem, m->io, &d);
	return r < 0 ? cannot(r, "rng0", err) : add_to_bus(m, d, NULL, err);
}

static int add_balloon(struct machine *m, struct vmd_error *err)
{
	struct virtio_balloon_config c = { .id = "balloon0",
		                           .deflate_on_oom = m->config->deflate_on_oom,
		                           .free_page_reporting = m->config->free_page_reporting };
	int r = small_loop(m);

	if (r == 0)
		r = virtio_balloon_new(&c, &m->memory.mem, m->io, &m->balloon);
	return r < 0 ? cannot(r, c.id, err) : add_to_bus(m, m->balloon, NULL, err);
}

static int add_serial(struct machine *m, struct vmd_error *err)
{
	const struct vmm_config *c = m->config;
	int r;

	if (c->console_fd < 0 || c->console != VMM_CONSOLE_SERIAL)
		return 0;
	r = small_loop(m);
	if (r == 0)
		r = serial_init(&m->serial, &m->pio, &m->irqs.chip, m->io, c->console_fd);
	m->has_serial = r == 0;
	return r < 0 ? cannot(r, "serial0", err) : 0;
}

static int add_platform(struct machine *m, struct vmd_error *err)
{
	const struct vmm_config *c = m->config;
	int r = acpi_power_init(&m->power, &m->pio, &m->irqs.chip, &m->platform);

	if (r == 0)
		r = i8042_init(&m->i8042, &m->pio, &m->platform);
	if (r == 0)
		r = rtc_cmos_init(&m->rtc, &m->pio);
	if (r == 0 && c->pvpanic)
		r = pvpanic_init(&m->pvpanic, &m->pio, &m->platform);
	if (r == 0 && c->test_device) {
		r = test_device_init(&m->test, &m->pio, &m->platform, c->console_fd);
		m->has_test = r == 0;
	}
	return r < 0 ? cannot(r, "platform", err) : 0;
}

int machine_add_devices(struct machine *m, struct vmd_error *err)
{
	const struct vmm_config *c = m->config;
	int r = add_platform(m, err);

	if (r == 0)
		r = add_serial(m, err);
	for (unsigned i = 0; r == 0 && i < c->n_disks; i++)
		r = add_disk(m, &c->disks[i], err);
	for (unsigned i = 0; r == 0 && i < c->n_nics; i++)
		r = add_nic(m, &c->nics[i], err);
	if (r == 0)
		r = add_console(m, err);
	if (r == 0 && c->rng)
		r = add_rng(m, err);
	if (r == 0 && c->balloon)
		r = add_balloon(m, err);
	return r;
}

void machine_remove_devices(struct machine *m)
{
	for (unsigned i = 0; i < m->n_devices; i++) {
		struct machine_device *d = &m->devices[i];

		/* A device stops in its loop, which has to be there. */
		d->transport = virtio_pci_free(d->transport);
		d->device = virtio_device_free(d->device);
		if (d->loop)
			d->loop = ioloop_free(d->loop);
	}
	m->n_devices = 0;
	m->balloon = NULL;
	m->io = ioloop_free(m->io);
	if (m->has_serial)
		serial_deinit(&m->serial, &m->pio);
	m->has_serial = false;
	if (m->has_test)
		test_device_deinit(&m->test, &m->pio);
	m->has_test = false;
}

int machine_start_loops(struct machine *m)
{
	int r = m->io ? ioloop_start(m->io) : 0;

	for (unsigned i = 0; r == 0 && i < m->n_devices; i++)
		if (m->devices[i].loop)
			r = ioloop_start(m->devices[i].loop);
	return r;
}

/* Less than what vmd gives a command (qmp_timeout_ms). A device that is busy, and answers, is quick
 * to stop. */
#define SETTLE_US     5000000u
#define SETTLE_ALL_US 7000000u

/* 0: at rest, or busy until the end; -ETIMEDOUT: it hangs. */
static int settle_device(struct virtio_device *d, uint64_t end)
{
	const struct timespec moment = { 0, 1000000 };
	uint64_t since = now_monotonic_us(), now = since;
	uint32_t before = 0, progress = 0;

	while (!virtio_device_settle(d, &progress)) {
		now = now_monotonic_us();
		if (progress != before)
			since = now;
		before = progress;
		if (now - since > SETTLE_US)
			return -ETIMEDOUT;
		if (now > end)
			return 0;
		/* seccomp main: clock_nanosleep. */
		(void)clock_nanosleep(CLOCK_MONOTONIC, 0, &moment, NULL);
	}
	return 0;
}

const char *machine_settle_devices(struct machine *m)
{
	uint64_t end = now_monotonic_us() + SETTLE_ALL_US;

	for (unsigned i = 0; i < m->n_devices; i++)
		if (settle_device(m->devices[i].device, end) < 0)
			return m->devices[i].device->id;
	return NULL;
}

void machine_pause_devices(struct machine *m)
{
	/* The guest's last words are out before it stands still, or before the process ends. */
	if (m->has_serial)
		serial_drain(&m->serial);
	for (unsigned i = 0; i < m->n_devices; i++)
		virtio_device_pause(m->devices[i].device);
}

void machine_resume_devices(struct machine *m)
{
	for (unsigned i = 0; i < m->n_devices; i++)
		virtio_device_resume(m->devices[i].device);
}

void machine_reset_devices(struct machine *m)
{
	for (unsigned i = 0; i < m->n_devices; i++)
		virtio_pci_reset(m->devices[i].transport);
	acpi_power_reset(&m->power);
	if (m->has_serial)
		serial_reset(&m->serial);
}

int machine_save_devices(struct machine *m, struct state_out *o)
{
	int r = irqs_save(&m->irqs, o);

	acpi_power_save(&m->power, o);
	rtc_cmos_save(&m->rtc, o);
	if (m->has_serial) {
		ioloop_pause(m->io);
		serial_save(&m->serial, o);
		ioloop_resume(m->io);
	}
	for (unsigned i = 0; i < m->n_devices; i++) {
		virtio_device_save(m->devices[i].device, o);
		virtio_pci_save(m->devices[i].transport, o);
	}
	return r;
}

int machine_load_devices(struct machine *m, struct state_in *in, struct vmd_error *err)
{
	int r = irqs_load(&m->irqs, in, err);

	if (r == 0)
		r = acpi_power_load(&m->power, in, err);
	if (r == 0)
		r = rtc_cmos_load(&m->rtc, in, err);
	if (r == 0 && m->has_serial) {
		ioloop_pause(m->io);
		r = serial_load(&m->serial, in, err);
		ioloop_resume(m->io);
	}
	for (unsigned i = 0; r == 0 && i < m->n_devices; i++) {
		r = virtio_pci_load(m->devices[i].transport, in, err);
		if (r == 0)
			r = virtio_device_load(m->devices[i].device, in, err);
	}
	return r;
}

bool machine_shares_memory(const struct machine *m)
{
	for (unsigned i = 0; i < m->config->n_disks; i++)
		if (m->config->disks[i].vhost_user_fd >= 0)
			return true;
	return false;
}
