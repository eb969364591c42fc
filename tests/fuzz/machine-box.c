/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "tests/fuzz/machine-box.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/fdio.h"
#include "common/macros.h"
#include "devices/acpi-power.h"
#include "devices/pvpanic.h"
#include "devices/rtc-cmos.h"
#include "devices/serial-8250.h"

#define DISK_BYTES (1u << 20)

/* The smallest kernel: it halts. */
static int kernel(void)
{
	struct {
		Elf64_Ehdr h;
		Elf64_Phdr p[2];
		Elf64_Nhdr n;
		char name[4];
		uint32_t entry;
		uint8_t code[16];
	} k = { .h = { .e_ident = { 0x7F, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB },
		       .e_machine = EM_X86_64,
		       .e_phoff = sizeof(Elf64_Ehdr),
		       .e_phnum = 2,
		       .e_phentsize = sizeof(Elf64_Phdr) },
		.n = { .n_namesz = 4, .n_descsz = 4, .n_type = 18 },
		.name = "Xen",
		.entry = 0x200000,
		.code = { 0xF4 } };
	int fd = memfd_create("kernel", MFD_CLOEXEC);

	k.p[0] = (Elf64_Phdr){ .p_type = PT_LOAD,
		               .p_offset = offsetof(__typeof__(k), code),
		               .p_paddr = 0x200000,
		               .p_filesz = 16,
		               .p_memsz = 16 };
	k.p[1] = (Elf64_Phdr){ .p_type = PT_NOTE,
		               .p_offset = offsetof(__typeof__(k), n),
		               .p_filesz = 20 };
	FUZZ_CHECK(write(fd, &k, sizeof(k)) == (ssize_t)sizeof(k));
	return fd;
}

static int pair(int *ret_ours)
{
	int sv[2];

	FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sv) == 0);
	*ret_ours = sv[1];
	return sv[0];
}

static void configure_devices(struct machine_box *b, unsigned parts)
{
	struct vmm_config *c = &b->config;

	if (parts & (BOX_SERIAL | BOX_CONSOLE)) {
		c->console_fd = pair(&b->console);
		c->console = parts & BOX_CONSOLE ? VMM_CONSOLE_VIRTIO : VMM_CONSOLE_SERIAL;
	}
	if (parts & BOX_DISK) {
		c->disks[0] = (struct vmm_disk){ .id = "disk0",
			                         .fd = memfd_create("disk", MFD_CLOEXEC),
			                         .vhost_user_fd = -EBADF,
			                         .discard = true,
			                         .queues = 1 };
		FUZZ_CHECK(ftruncate(c->disks[0].fd, DISK_BYTES) == 0);
		c->n_disks = 1;
	}
	if (parts & BOX_NIC) {
		c->nics[0] =
			(struct vmm_nic){ .id = "nic0", .mac = { 2 }, .stream_fd = pair(&b->nic) };
		c->n_nics = 1;
	}
	c->rng = parts & BOX_RNG;
	c->balloon = c->free_page_reporting = parts & BOX_BALLOON;
	c->pvpanic = true;
	c->test_device = parts & BOX_TEST_DEVICE;
}

static void configure(struct machine_box *b, unsigned parts)
{
	unsigned cpus = parts & BOX_TWO_CPUS ? 2 : 1;

	*b = (struct machine_box){ .qmp = -EBADF, .console = -EBADF, .nic = -EBADF };
	b->kvm_fd = fake_kvm_new();
	b->kernel_fd = kernel();
	b->config = (struct vmm_config){
		.name = "box",
		.uuid = "u",
		.kvm_fd = b->kvm_fd,
		.qmp_fd = -EBADF,
		.memory_bytes = BOX_MEMORY,
		.hugepages = VMM_PAGES_OFF,
		.kernel_fd = b->kernel_fd,
		.initrd_fd = -EBADF,
		.cmdline = "console=ttyS0",
		.console_fd = -EBADF,
		.incoming = parts & BOX_INCOMING,
		.paused = parts & BOX_PAUSED,
		.cpus = { .count = cpus, .sockets = 1, .cores = cpus, .threads = 1 }
	};
	configure_devices(b, parts);
}

/* libFuzzer ends by these; the monitor's handlers would keep them from it. */
static void start_control(struct machine_box *b)
{
	static const int signals[] = { SIGTERM, SIGINT, SIGHUP };
	struct sigaction before[ARRAY_SIZE(signals)];

	for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
		(void)sigaction(signals[i], NULL, &before[i]);
	control_init(&b->control, &b->machine, pair(&b->qmp));
	for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
		(void)sigaction(signals[i], &before[i], NULL);
	b->ready = true;
}

int machine_box_init(struct machine_box *b, unsigned parts, struct vmd_error *err)
{
	int r;

	configure(b, parts);
	r = machine_realize(&b->machine, &b->config, err);
	if (r < 0)
		return r;
	start_control(b);
	r = machine_start_threads(&b->machine, err);
	if (r == 0 && !b->config.incoming)
		r = machine_boot(&b->machine, err);
	if (r == 0 && !b->config.incoming && !b->config.paused)
		r = machine_cont(&b->machine, err);
	return r;
}

/* Those of devices that were not made are nobody's yet. */
static void close_config(struct machine_box *b)
{
	const struct machine *m = &b->machine;
	unsigned made = 0, virtio_console = 0;

	for (unsigned i = 0; i < m->n_devices; i++) {
		made |= 1u << m->devices[i].device->ops->id;
		virtio_console |= m->devices[i].device->ops->id == VIRTIO_ID_CONSOLE;
	}
	if (b->config.n_disks && !(made & 1u << VIRTIO_ID_BLOCK))
		close(b->config.disks[0].fd);
	if (b->config.n_nics && !(made & 1u << VIRTIO_ID_NET))
		close(b->config.nics[0].stream_fd);
	if (b->config.console_fd >= 0 && !m->has_serial && !virtio_console)
		close(b->config.console_fd);
	close(b->kvm_fd);
	close(b->kernel_fd);
}

void machine_box_deinit(struct machine_box *b)
{
	fake_kvm_fail(0, 0);
	if (b->ready)
		vcpus_park(&b->machine.vcpus);
	close_config(b);
	machine_free(&b->machine);
	if (b->ready)
		control_deinit(&b->control);
	cleanup_close_p(&b->qmp);
	cleanup_close_p(&b->console);
	cleanup_close_p(&b->nic);
}

bool machine_box_turn(struct machine_box *b)
{
	if (b->machine.status != MACHINE_SHUTDOWN)
		(void)control_turn(&b->control, 0);
	return b->machine.status != MACHINE_SHUTDOWN;
}

static void check_line(const char *line, size_t len)
{
	static const char *const kinds[] = { "QMP", "return", "error", "event" };
	json_t *j = json_loadb(line, len, 0, NULL);
	unsigned n = 0;

	if (!j)
		fprintf(stderr, "sent: %.*s\n", (int)len, line);
	FUZZ_CHECK(json_is_object(j));
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		n += json_object_get(j, kinds[i]) != NULL;
	FUZZ_CHECK(n == 1);
	json_decref(j);
}

/* As much as there is; what a line was cut by is taken again later, so it is only peeked at. */
void machine_box_read(struct machine_box *b)
{
	static char text[512 << 10];
	ssize_t n;

	while (b->qmp >= 0 && (n = recv(b->qmp, text, sizeof(text), MSG_PEEK)) > 0) {
		const char *end = memrchr(text, '\n', (size_t)n), *at = text;

		if (!end)
			return;
		while (at <= end) {
			const char *nl = memchr(at, '\n', (size_t)(end + 1 - at));

			check_line(at, (size_t)(nl - at));
			at = nl + 1;
		}
		FUZZ_CHECK(recv(b->qmp, text, (size_t)(end + 1 - text), 0) > 0);
	}
}

void machine_box_send(struct machine_box *b, const void *bytes, size_t len, int fd)
{
	if (b->qmp >= 0 && fd_send(b->qmp, bytes, len, &fd, fd >= 0 ? 1 : 0) < 0)
		return; /* the monitor is not reading, or gone */
	(void)machine_box_turn(b);
}

/* All of them, not only asked to: who asks tells why after it, and parks last. So the turn that
 * follows finds the reason, and what an input does is the same each time. */
static bool is_parked(void *arg)
{
	struct vcpus *a = &((struct machine_box *)arg)->machine.vcpus;
	bool parked;

	if (atomic_load(&a->want) == VCPUS_RUN)
		return false;
	pthread_mutex_lock(&a->lock);
	parked = a->parked == a->n;
	pthread_mutex_unlock(&a->lock);
	return parked;
}

static void take_io(struct kvm_run *run, struct fuzz_input *in, uint8_t data[64])
{
	static const uint16_t ports[] = {
		SERIAL_PORT,
		SERIAL_PORT + 4,
		0x70,
		0x71,
		0x60,
		0x64,
		PVPANIC_PORT,
		ACPI_POWER_PORT,
		0x604,
		0x605,
		ACPI_RESET_PORT,
		0xF4,
		0xF1,
		0xCF8,
		0xCFC,
		0xCFE,
	};
	uint8_t which = (uint8_t)fuzz_take(in, 1);

	run->exit_reason = KVM_EXIT_IO;
	run->io.port = which & 0x80 ? (uint16_t)fuzz_take(in, 2)
	                            : (uint16_t)(ports[which & 15] + (which >> 4 & 3));
	run->io.direction = fuzz_take(in, 1) & 1 ? KVM_EXIT_IO_OUT : KVM_EXIT_IO_IN;
	run->io.size = (uint8_t)(1u << fuzz_take(in, 1) % 3);
	run->io.count = 1 + fuzz_take(in, 1) % 4 * 5;
	for (unsigned i = 0; i < run->io.size * run->io.count && i < 64; i++)
		data[i] = (uint8_t)fuzz_take(in, 1);
}

static void take_mmio(struct kvm_run *run, struct fuzz_input *in)
{
	uint8_t which = (uint8_t)fuzz_take(in, 1);

	run->exit_reason = KVM_EXIT_MMIO;
	if (which & 0x80)
		run->mmio.phys_addr = fuzz_take(in, 8);
	else if (which & 0x40)
		run->mmio.phys_addr =
			LAYOUT_ECAM + ((which & 7ull) << 15) + (fuzz_take(in, 2) & 0xFFF);
	else /* the BARs, one after another from where the window begins */
		run->mmio.phys_addr =
			(which & 0x20 ? LAYOUT_PCI_LOW : LAYOUT_HIGH_RAM + (16ull << 30)) +
			(which & 7ull) * 0x4000 + fuzz_take(in, 2) % 0x4000;
	run->mmio.is_write = fuzz_take(in, 1) & 1;
	run->mmio.len = 1 + fuzz_take(in, 1) % 9;
	for (unsigned i = 0; i < 8; i++)
		run->mmio.data[i] = (uint8_t)fuzz_take(in, 1);
}

static void take_other(struct kvm_run *run, struct fuzz_input *in)
{
	run->exit_reason = (uint32_t)fuzz_take(in, 1) & 63;
	for (unsigned i = 0; i < 40; i++)
		run->padding[i] = (char)fuzz_take(in, 1);
	if (run->exit_reason == KVM_EXIT_IO || run->exit_reason == KVM_EXIT_MMIO)
		run->exit_reason = KVM_EXIT_HLT;
}

void machine_box_exit(struct machine_box *b, struct fuzz_input *in)
{
	struct kvm_run run = { 0 };
	uint8_t data[64] = { 0 }, how = (uint8_t)fuzz_take(in, 1);
	unsigned cpu = how >> 7;

	if (how % 8 < 4)
		take_io(&run, in, data);
	else if (how % 8 < 7)
		take_mmio(&run, in);
	else
		take_other(&run, in);
	if (cpu < b->machine.vcpus.n)
		(void)fake_kvm_exit(cpu, &run, data, is_parked, b);
	(void)machine_box_turn(b);
}
