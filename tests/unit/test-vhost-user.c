/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/fdio.h"
#include "common/macros.h"
#include "common/timeutil.h"
#include "devices/models.h"
#include "devices/vhost-user.h"
#include "tests/lib/guest-pci.h"

#define SLOT       2
#define QUEUES     2
#define QUEUE_SIZE 64
#define DATA_BYTES (1u << 20)
#define DISK_BYTES (80u << 20) /* behind the data there are zeroes */
#define V1         (1ull << VIRTIO_F_VERSION_1)
#define EVENT_IDX  (1ull << 29)
#define INDIRECT   (1ull << 28)
#define READY      0x0f

#define PATIENCE_MS 500

/* virtio-blk, as a driver sees it (virtio 1.2, 5.2). */
enum {
	BLK_IN = 0,
	BLK_OUT = 1,
	BLK_FLUSH = 4,
	BLK_GET_ID = 8,
	BLK_DISCARD = 11,
	BLK_ZEROES = 13,
	F_RO = 5,
	F_FLUSH = 9,
	F_WCE = 11,
	F_MQ = 12,
	F_DISCARD = 13,
	F_ZEROES = 14
};

enum {
	S_OK = 0,
	S_IOERR = 1,
	S_UNSUPP = 2,
	S_NONE = 0xff
};

struct blk_header {
	uint32_t type, reserved;
	uint64_t sector;
};

static char dir[64], image[96];
static struct guest_machine m;
static struct ioloop *loop;
static struct virtio_device *disk;
static struct virtio_pci *transport;
static struct pci_driver driver;
static struct driver_queue queues[QUEUES];
static pid_t back_end;

/* Starts the storage daemon on a socket that already listens, and connects to it. */
static int start_back_end_of(const char *kind, bool writable)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int listener = socket(AF_UNIX, SOCK_STREAM, 0), fd = socket(AF_UNIX, SOCK_STREAM, 0);
	char file[256], format[256], export[256];

	snprintf(a.sun_path, sizeof(a.sun_path), "%s/sock", dir);
	unlink(a.sun_path);
	cr_assert_eq(bind(listener, (struct sockaddr *)&a, sizeof(a)), 0);
	cr_assert_eq(listen(listener, 1), 0);
	snprintf(file, sizeof(file),
	         "driver=file,node-name=f,filename=%s,read-only=%s,discard=unmap", image,
	         writable ? "off" : "on");
	snprintf(format, sizeof(format), "driver=%s,node-name=d,file=f,read-only=%s,discard=unmap",
	         kind, writable ? "off" : "on");
	snprintf(export, sizeof(export),
	         "vhost-user-blk,id=e,node-name=d,writable=%s,addr.type=fd,addr.str=%d",
	         writable ? "on" : "off", listener);
	back_end = fork();
	cr_assert_geq(back_end, 0);
	if (back_end == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		execlp("qemu-storage-daemon", "qemu-storage-daemon", "--blockdev", file,
		       "--blockdev", format, "--export", export, NULL);
		_exit(127);
	}
	close(listener);
	cr_assert_eq(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	fd_set_cloexec(fd, 1);
	return fd;
}

static int start_back_end(bool writable)
{
	return start_back_end_of("raw", writable);
}

static void end_back_end(void)
{
	if (back_end <= 0)
		return;
	kill(back_end, SIGKILL);
	waitpid(back_end, NULL, 0);
	back_end = 0;
}

static void make_image(void)
{
	uint8_t block[512];
	int fd;

	snprintf(dir, sizeof(dir), "/tmp/vmd-vhost-XXXXXX");
	cr_assert_not_null(mkdtemp(dir));
	snprintf(image, sizeof(image), "%s/image", dir);
	fd = open(image, O_RDWR | O_CREAT, 0600);
	for (unsigned i = 0; i < DATA_BYTES / sizeof(block); i++) {
		memset(block, (int)(i % 251), sizeof(block));
		cr_assert_eq(write(fd, block, sizeof(block)), (ssize_t)sizeof(block));
	}
	cr_assert_eq(ftruncate(fd, DISK_BYTES), 0);
	close(fd);
}

static void remove_image(void)
{
	char path[96];

	unlink(image);
	snprintf(path, sizeof(path), "%s/sock", dir);
	unlink(path);
	cr_expect_eq(rmdir(dir), 0);
}

static int plug_in(int fd, bool readonly)
{
	struct virtio_blk_config c = { .id = "disk0",
		                       .fd = fd,
		                       .remote = true,
		                       .memory_fd = m.ram.memory_fd,
		                       .patience_ms = PATIENCE_MS,
		                       .readonly = readonly,
		                       .discard = true,
		                       .serial = "SER-7",
		                       .n_queues = QUEUES };
	int r = virtio_blk_new(&c, &m.ram.mem, loop, &disk);

	if (r == 0)
		cr_assert_eq(virtio_pci_new(&m.pci, &m.doorbells, disk, SLOT, &transport, NULL), 0);
	return r;
}

static void set_up(void)
{
	guest_machine_init(&m, 4u << 20);
	cr_assert_eq(ioloop_new("disk0", &loop), 0);
	cr_assert_eq(ioloop_start(loop), 0);
	for (unsigned i = 0; i < QUEUES; i++)
		driver_queue_init(&queues[i], &m.ram, QUEUE_SIZE);
}

static void tear_down(void)
{
	transport = virtio_pci_free(transport);
	disk = virtio_device_free(disk);
	loop = ioloop_free(loop);
	guest_machine_deinit(&m);
}

static void set_up_disk(void)
{
	make_image();
	set_up();
	cr_assert_eq(plug_in(start_back_end(true), false), 0);
	pci_driver_probe(&driver, &m, SLOT);
}

static void tear_down_disk(void)
{
	tear_down();
	end_back_end();
	remove_image();
}

TestSuite(vhost_user_disk, .init = set_up_disk, .fini = tear_down_disk, .timeout = 60);

static void bring_up(uint64_t features)
{
	cr_assert(pci_driver_negotiate(&driver, features | V1));
	for (unsigned i = 0; i < QUEUES; i++) {
		queues[i].event_idx = features & EVENT_IDX;
		pci_driver_set_vector(&driver, i);
		pci_driver_set_queue(&driver, i, &queues[i], (uint16_t)i);
	}
	pci_driver_set_vector(&driver, QUEUES);
	pci_driver_write(&driver, 0x10, 2, QUEUES);
	pci_driver_ok(&driver);
	cr_assert_eq(pci_driver_status(&driver), READY);
}

/* Puts a request of one block on queue i without waiting for it. */
static void offer(unsigned i, uint32_t type, uint64_t sector, gpa_t data, gpa_t status)
{
	struct blk_header h = { .type = type, .sector = sector };
	struct driver_buffer b[] = { { guest_ram_put(&m.ram, &h, sizeof(h)), sizeof(h), false },
		                     { data, 512, type == BLK_IN },
		                     { status, 1, true } };

	if (type == BLK_GET_ID)
		b[1] = (struct driver_buffer){ data, 20, true };
	if (type == BLK_DISCARD || type == BLK_ZEROES)
		b[1].len = 16;
	if (type == BLK_FLUSH)
		b[1] = b[2];
	driver_publish(&queues[i], driver_chain(&queues[i], b, type == BLK_FLUSH ? 2 : 3));
	if (driver_should_kick(&queues[i]))
		pci_driver_kick(&driver, i);
}

static uint8_t request(unsigned i, uint32_t type, uint64_t sector, gpa_t data)
{
	uint8_t *status;
	gpa_t at = guest_ram_put(&m.ram, "\xff", 1);

	offer(i, type, sector, data, at);
	pci_driver_wait_used(&driver, &queues[i], (uint8_t)(i + 1), NULL);
	status = guest_ram_at(&m.ram, at);
	return *status;
}

static void read_and_check(unsigned i, uint64_t sector, uint8_t expected)
{
	gpa_t data = guest_ram_put(&m.ram, NULL, 512);
	const uint8_t *bytes = guest_ram_at(&m.ram, data);

	cr_assert_eq(request(i, BLK_IN, sector, data), 0);
	for (unsigned k = 0; k < 512; k++)
		cr_assert_eq(bytes[k], expected);
}

static void read_write(uint64_t features)
{
	gpa_t data = guest_ram_put(&m.ram, NULL, 512);
	uint8_t on_disk[512];
	int fd;

	bring_up(features);
	cr_expect_eq(bus_read(&m.mmio, driver.device, 8), DISK_BYTES / 512);
	cr_expect_eq(bus_read(&m.mmio, driver.device + 34, 2), (uint64_t)QUEUES);
	for (unsigned n = 0; n < 100; n++)
		read_and_check(n % QUEUES, n * 7, (uint8_t)(n * 7 % 251));
	memset(guest_ram_at(&m.ram, data), 0xcd, 512);
	cr_expect_eq(request(1, BLK_OUT, 99, data), 0);
	cr_expect_eq(request(0, BLK_FLUSH, 0, GPA(0)), 0);
	fd = open(image, O_RDONLY);
	cr_assert_eq(pread(fd, on_disk, 512, 99 * 512), 512);
	cr_expect(on_disk[0] == 0xcd && on_disk[511] == 0xcd);
	close(fd);
	cr_expect_eq(request(0, BLK_IN, DISK_BYTES / 512, data), S_IOERR, "past the end");
	cr_expect_eq(request(0, 77, 0, data), S_UNSUPP, "no such request");
	cr_expect_eq(request(1, BLK_GET_ID, 0, data), S_OK);
	cr_expect_str_eq(guest_ram_at(&m.ram, data), "SER-7");
}

Test(vhost_user_disk, reads_and_writes)
{
	read_write(0);
}

Test(vhost_user_disk, reads_and_writes_by_event_index)
{
	read_write(EVENT_IDX | INDIRECT);
}

static uint8_t range_request(uint32_t type, uint64_t sector, uint32_t sectors)
{
	struct {
		uint64_t sector;
		uint32_t sectors, flags;
	} range = { sector, sectors, 0 };

	return request(0, type, 0, guest_ram_put(&m.ram, &range, sizeof(range)));
}

/* More of it than the other process does at once. */
Test(vhost_user_disk, zeroes_and_discards)
{
	bring_up(EVENT_IDX | 1ull << F_DISCARD | 1ull << F_ZEROES);
	read_and_check(0, 70, 70);
	cr_expect_eq(range_request(BLK_ZEROES, 64, (64 << 20) / 512), S_OK);
	read_and_check(0, 63, 63);
	read_and_check(0, 70, 0);
	read_and_check(0, DATA_BYTES / 512 - 1, 0);
	cr_expect_eq(range_request(BLK_DISCARD, 8, 40), S_OK);
	read_and_check(0, 7, 7);
	read_and_check(0, 48, 48);
	cr_expect_eq(range_request(BLK_ZEROES, DISK_BYTES / 512 - 1, 2), S_IOERR);
}

/* Every write is followed by a flush before it is answered. */
Test(vhost_user_disk, writes_through)
{
	gpa_t data = guest_ram_put(&m.ram, NULL, 512);

	bring_up(1ull << F_WCE);
	bus_write(&m.mmio, driver.device + 32, 1, 0);
	memset(guest_ram_at(&m.ram, data), 0x77, 512);
	for (unsigned i = 0; i < 20; i++)
		cr_assert_eq(request(i % QUEUES, BLK_OUT, i, data), S_OK);
	read_and_check(0, 19, 0x77);
	read_and_check(0, 20, 20);
}

Test(vhost_user_disk, resets_with_requests_in_flight)
{
	for (unsigned n = 0; n < 20; n++) {
		gpa_t data, status;

		bring_up(n % 2 ? EVENT_IDX : 0);
		data = guest_ram_put(&m.ram, NULL, 512 * 16);
		status = guest_ram_put(&m.ram, NULL, 16);
		for (unsigned i = 0; i < 16; i++)
			offer(i % QUEUES, BLK_IN, i, GPA(data.v + 512 * i), GPA(status.v + i));
		pci_driver_set_status(&driver, 0);
		/* The memory is the guest's again: nobody writes to it. */
		memset(guest_ram_at(&m.ram, data), 0xee, 512 * 16);
		for (unsigned i = 0; i < QUEUES; i++)
			driver_queue_init(&queues[i], &m.ram, QUEUE_SIZE);
		bring_up(0);
		read_and_check(0, 5, 5);
		for (unsigned i = 0; i < 512 * 16; i++)
			cr_assert_eq(*((uint8_t *)guest_ram_at(&m.ram, data) + i), 0xee);
		pci_driver_set_status(&driver, 0);
		for (unsigned i = 0; i < QUEUES; i++)
			driver_queue_init(&queues[i], &m.ram, QUEUE_SIZE);
	}
}

Test(vhost_user_disk, paused_saved_and_loaded_into_another)
{
	struct vmd_error err = VMD_ERROR_INIT;
	struct state_out o;
	struct state_in in;

	bring_up(EVENT_IDX | 1ull << F_WCE);
	bus_write(&m.mmio, driver.device + 32, 1, 0);
	read_and_check(0, 1, 1);
	read_and_check(1, 2, 2);
	virtio_device_pause(disk);
	virtio_device_resume(disk);
	read_and_check(1, 3, 3);
	virtio_device_pause(disk);
	state_out_init(&o);
	virtio_pci_save(transport, &o);
	virtio_device_save(disk, &o);
	cr_assert_eq(state_finish(&o), 0);
	transport = virtio_pci_free(transport);
	disk = virtio_device_free(disk);
	end_back_end();
	remove_image();
	make_image();
	cr_assert_eq(plug_in(start_back_end(true), false), 0);
	cr_assert_eq(state_open(&in, o.data, o.len, NULL), 0);
	cr_assert_eq(virtio_pci_load(transport, &in, &err), 0, "%s", err.message);
	cr_assert_eq(virtio_device_load(disk, &in, &err), 0, "%s", err.message);
	cr_assert_eq(state_close(&in, NULL), 0);
	virtio_device_resume(disk);
	cr_expect_eq(bus_read(&m.mmio, driver.device + 32, 1), 0u, "the cache mode");
	read_and_check(0, 4, 4);
	read_and_check(1, 5, 5);
	state_out_deinit(&o);
}

/* Everything that was offered has its answer, and the driver hears of it. */
Test(vhost_user_disk, a_back_end_that_dies_is_errors)
{
	bring_up(0);
	read_and_check(0, 1, 1);
	kill(back_end, SIGSTOP);
	for (unsigned i = 0; i < 8; i++)
		offer(i % QUEUES, BLK_IN, i, guest_ram_put(&m.ram, NULL, 512),
		      guest_ram_put(&m.ram, "\xff", 1));
	end_back_end();
	for (unsigned i = 0; i < 8; i++)
		pci_driver_wait_used(&driver, &queues[i % QUEUES], (uint8_t)(i % QUEUES + 1), NULL);
	cr_expect_eq(request(0, BLK_IN, 3, guest_ram_put(&m.ram, NULL, 512)), S_IOERR);
	cr_expect_eq(request(1, BLK_FLUSH, 0, GPA(0)), S_IOERR);
	cr_expect_eq(pci_driver_status(&driver), READY);
	/* A reset does not bring it back, and does no harm. */
	pci_driver_set_status(&driver, 0);
	for (unsigned i = 0; i < QUEUES; i++)
		driver_queue_init(&queues[i], &m.ram, QUEUE_SIZE);
	bring_up(EVENT_IDX);
	cr_expect_eq(request(0, BLK_IN, 3, guest_ram_put(&m.ram, NULL, 512)), S_IOERR);
	virtio_device_pause(disk);
	cr_expect_not(disk->unsaved, "nothing was written");
	virtio_device_resume(disk);
}

/* A pause, and a reset, wait for what is under way, but not for ever. */
Test(vhost_user_disk, a_back_end_that_hangs_is_given_up)
{
	uint32_t progress = 0, before;
	uint64_t begin;

	bring_up(0);
	kill(back_end, SIGSTOP);
	offer(0, BLK_OUT, 1, guest_ram_put(&m.ram, NULL, 512), guest_ram_put(&m.ram, "\xff", 1));
	while (!*(volatile uint32_t *)&disk->queues[0].in_flight)
		(void)poll(NULL, 0, 1);
	(void)virtio_device_settle(disk, &progress);
	before = progress;
	for (unsigned i = 0; i < 50; i++) {
		cr_assert_not(virtio_device_settle(disk, &progress));
		cr_assert_eq(progress, before);
		(void)poll(NULL, 0, 1);
	}
	begin = now_monotonic_us();
	virtio_device_pause(disk);
	cr_expect_geq(now_monotonic_us() - begin, PATIENCE_MS * 1000u);
	cr_expect_lt(now_monotonic_us() - begin, PATIENCE_MS * 10000u);
	virtio_device_resume(disk);
	pci_driver_wait_used(&driver, &queues[0], 1, NULL);
	cr_expect_eq(request(1, BLK_IN, 0, guest_ram_put(&m.ram, NULL, 512)), S_IOERR);
	kill(back_end, SIGCONT);
}

/* What the storage daemon keeps in its memory of a qcow2 image is in the file after a pause, and
 * after a reset. */
static void settles_by(void (*how)(void))
{
	gpa_t data = guest_ram_put(&m.ram, NULL, 512);
	char command[256];
	int fd;

	tear_down();
	end_back_end();
	snprintf(command, sizeof(command), "qemu-img create -q -f qcow2 %s 4M", image);
	if (system(command) != 0)
		cr_skip_test("no qemu-img");
	set_up();
	cr_assert_eq(plug_in(start_back_end_of("qcow2", true), false), 0);
	pci_driver_probe(&driver, &m, SLOT);
	data = guest_ram_put(&m.ram, NULL, 512);
	bring_up(1ull << F_FLUSH);
	memset(guest_ram_at(&m.ram, data), 0x5a, 512);
	cr_assert_eq(request(0, BLK_OUT, 4000, data), S_OK);
	how();
	cr_expect_not(disk->unsaved);
	tear_down();
	end_back_end();
	set_up();
	fd = start_back_end_of("qcow2", false);
	cr_assert_eq(plug_in(fd, true), 0);
	pci_driver_probe(&driver, &m, SLOT);
	bring_up(1ull << F_RO);
	read_and_check(0, 4000, 0x5a);
}

/* The flush is under way before the pause, with requests beside it. */
static void by_settling(void)
{
	uint32_t progress;

	while (!virtio_device_settle(disk, &progress))
		(void)poll(NULL, 0, 1);
	kill(back_end, SIGKILL);
	virtio_device_pause(disk);
	end_back_end();
}

Test(vhost_user_disk, is_whole_in_its_file_when_it_has_settled)
{
	settles_by(by_settling);
}

static void by_pause(void)
{
	virtio_device_pause(disk);
	end_back_end();
}

static void by_reset(void)
{
	pci_driver_set_status(&driver, 0);
	end_back_end();
}

Test(vhost_user_disk, is_whole_in_its_file_after_a_pause)
{
	settles_by(by_pause);
}

Test(vhost_user_disk, is_whole_in_its_file_after_a_reset)
{
	settles_by(by_reset);
}

/* It cannot be saved when that failed. */
Test(vhost_user_disk, what_is_lost_is_told)
{
	gpa_t data = guest_ram_put(&m.ram, NULL, 512);

	bring_up(1ull << F_FLUSH);
	cr_assert_eq(request(0, BLK_OUT, 40, data), S_OK);
	end_back_end();
	virtio_device_pause(disk);
	cr_expect(disk->unsaved);
}

/* RAM in two regions, as of a guest with memory above the hole under 4 GiB. */
Test(vhost_user, memory_of_two_regions, .init = set_up, .fini = tear_down, .timeout = 60)
{
	struct guestmem_region *low = &m.ram.mem.regions[0], *high = &m.ram.mem.regions[1];
	gpa_t data;

	make_image();
	low->bytes /= 2;
	*high = (struct guestmem_region){ .gpa = low->bytes,
		                          .bytes = low->bytes,
		                          .host = low->host + low->bytes };
	m.ram.mem.n = 2;
	cr_assert_eq(plug_in(start_back_end(true), false), 0);
	pci_driver_probe(&driver, &m, SLOT);
	bring_up(0);
	read_and_check(0, 3, 3);
	m.ram.next = low->bytes;
	data = guest_ram_put(&m.ram, NULL, 512);
	memset(guest_ram_at(&m.ram, data), 0x3c, 512);
	cr_expect_eq(request(0, BLK_OUT, 9, data), S_OK);
	read_and_check(1, 9, 0x3c);
	read_and_check(1, 200, 200);
	tear_down();
	end_back_end();
	remove_image();
	set_up();
}

Test(vhost_user, a_read_only_disk, .init = set_up, .fini = tear_down, .timeout = 60)
{
	make_image();
	cr_assert_eq(plug_in(start_back_end(false), true), 0);
	pci_driver_probe(&driver, &m, SLOT);
	cr_expect(pci_driver_features(&driver) >> F_RO & 1);
	cr_expect_not(pci_driver_features(&driver) >> F_ZEROES & 1);
	bring_up(1ull << F_RO);
	cr_expect_eq(request(0, BLK_OUT, 0, guest_ram_put(&m.ram, NULL, 512)), S_IOERR);
	read_and_check(0, 3, 3);
	tear_down();
	end_back_end();
	remove_image();
	set_up();
}

/* A back-end that lies: it answers the n-th request wrongly, each way there is. */
enum lie {
	LIE_SHORT,
	LIE_LONG,
	LIE_OTHER_REQUEST,
	LIE_NO_REPLY_FLAG,
	LIE_CUT,
	LIE_CLOSED,
	LIE_VALUE,
	_LIE_MAX
};

struct liar {
	int fd;
	unsigned at;
	enum lie lie;
	unsigned seen;
};

static bool receive(int fd, void *data, size_t len)
{
	uint8_t *at = data;
	int fds[8];
	size_t n_fds;

	while (len) {
		ssize_t n = fd_recv(fd, at, len, fds, 8, &n_fds);

		if (n <= 0)
			return false;
		fd_close_many(fds, n_fds);
		at += n;
		len -= (size_t)n;
	}
	return true;
}

static bool answer(struct liar *l, uint32_t *h, uint8_t *payload)
{
	uint64_t value = h[0] == 1    ? V1 | INDIRECT | 1ull << 9 | 1ull << 30
	                 : h[0] == 15 ? 1 << 0 | 1 << 3 | 1 << 9
	                 : h[0] == 17 ? 1
	                              : 0;
	bool lies = l->seen++ == l->at;
	uint8_t out[512];
	size_t len = 8;

	if (h[0] == 24) {
		len = h[2];
	} else {
		memcpy(payload, &value, 8);
	}
	if (lies && l->lie == LIE_CLOSED)
		return false;
	if (lies && l->lie == LIE_VALUE)
		memset(payload, 0xff, len);
	h[0] += lies && l->lie == LIE_OTHER_REQUEST;
	h[1] = lies && l->lie == LIE_NO_REPLY_FLAG ? 1 : 5;
	h[2] = (uint32_t)len + (lies && l->lie == LIE_LONG ? 1 : 0) -
	       (lies && l->lie == LIE_SHORT ? 1 : 0);
	memcpy(out, h, 12);
	memcpy(out + 12, payload, len);
	len += 12 - (lies && l->lie == LIE_CUT ? 1 : 0);
	if (send(l->fd, out, len, MSG_NOSIGNAL) != (ssize_t)len)
		return false;
	if (lies && l->lie == LIE_CUT)
		shutdown(l->fd, SHUT_WR);
	return true;
}

static void *lying_back_end(void *arg)
{
	struct liar *l = arg;
	uint32_t h[3];
	uint8_t payload[512];

	for (;;) {
		if (!receive(l->fd, h, sizeof(h)) || h[2] > sizeof(payload) ||
		    !receive(l->fd, payload, h[2]))
			break;
		/* Answered are questions, and what asks for it. */
		if ((h[1] & 8 || h[0] == 1 || h[0] == 15 || h[0] == 17 || h[0] == 24 ||
		     h[0] == 11) &&
		    !answer(l, h, payload))
			break;
	}
	close(l->fd);
	return NULL;
}

/* True when the device came up and served no wrong thing; the lie has to show before that. */
static bool comes_up_with(struct liar *l)
{
	bool up = false;
	int pair[2];
	pthread_t t;

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	l->fd = pair[1];
	pthread_create(&t, NULL, lying_back_end, l);
	if (plug_in(pair[0], false) < 0) {
		close(pair[0]);
	} else {
		pci_driver_probe(&driver, &m, SLOT);
		if (pci_driver_negotiate(&driver, V1)) {
			for (unsigned i = 0; i < QUEUES; i++)
				pci_driver_set_queue(&driver, i, &queues[i], 0xffff);
			pci_driver_ok(&driver);
			up = pci_driver_status(&driver) == READY;
		}
		transport = virtio_pci_free(transport);
		disk = virtio_device_free(disk);
	}
	pthread_join(t, NULL);
	return up;
}

Test(vhost_user, a_back_end_that_lies, .init = set_up, .fini = tear_down, .timeout = 60)
{
	struct liar honest = { .at = UINT32_MAX };
	unsigned answers;

	cr_assert(comes_up_with(&honest));
	answers = honest.seen;
	cr_expect_geq(answers, 13u);
	for (unsigned at = 0; at < answers; at++)
		for (enum lie lie = 0; lie < _LIE_MAX; lie++) {
			struct liar l = { .at = at, .lie = lie };
			bool up = comes_up_with(&l);

			/* Features, queues and the config space may have any value. */
			if (lie != LIE_VALUE || at > 4)
				cr_expect_not(up, "lie %d at answer %u", lie, at);
		}
}

/* A back-end that serves the ring, wrongly. Addresses are those of this process. */
enum ring_lie {
	RING_RIGHT,
	RING_TOO_MANY,  /* the index says more than there is */
	RING_NO_SUCH,   /* a number past the ring */
	RING_NOT_GIVEN, /* a descriptor that is not in use */
	RING_TWICE,     /* one of two requests answered twice */
	RING_STATUS,    /* a status that does not exist */
	RING_SCRIBBLE,  /* all that it may write to, and a right answer */
	RING_TALKS,     /* it says something that nobody asked for */
	_RING_LIE_MAX
};

#define RING 512 /* its size, as the front-end has it for two queues */

struct ring_liar {
	struct liar protocol;
	enum ring_lie lie;
	uint8_t *desc, *avail, *used;
	int kick, call;
	uint16_t seen;
};

/* As the protocol's other side, and what it is told of the ring. */
static void take_ring(struct ring_liar *l, uint32_t request, const uint8_t *payload, int fd)
{
	uint64_t at[3];

	if (request == 9) { /* SET_VRING_ADDR: descriptors, used, available */
		memcpy(at, payload + 8, sizeof(at));
		l->desc = (uint8_t *)(uintptr_t)at[0];
		l->used = (uint8_t *)(uintptr_t)at[1];
		l->avail = (uint8_t *)(uintptr_t)at[2];
	} else if (request == 12) {
		l->kick = fd;
	} else if (request == 13) {
		l->call = fd;
	} else if (fd >= 0) {
		close(fd);
	}
}

static void put_used(struct ring_liar *l, uint16_t at, uint32_t id)
{
	memcpy(l->used + 4 + at % RING * 8, &id, 4);
}

static void answer_ring(struct ring_liar *l)
{
	uint16_t idx = *(volatile uint16_t *)(l->avail + 2), told;
	unsigned n = (uint16_t)(idx - l->seen);

	if (n < 2)
		return; /* it waits for two */
	for (unsigned i = 0; i < n; i++) {
		uint16_t at = (uint16_t)(l->seen + i), id;
		uint64_t table;
		uint32_t bytes;

		memcpy(&id, l->avail + 4 + at % RING * 2, 2);
		memcpy(&table, l->desc + 16 * id, 8);
		memcpy(&bytes, l->desc + 16 * id + 8, 4);
		put_used(l, at,
		         l->lie == RING_NO_SUCH     ? 70000
		         : l->lie == RING_NOT_GIVEN ? (id + 100u) % RING
		                                    : id);
		if (l->lie == RING_TWICE && i)
			memcpy(l->used + 4 + at % RING * 8, l->used + 4 + (at - 1) % RING * 8, 8);
		/* The status byte is the last part. */
		memcpy(&table, (uint8_t *)(uintptr_t)table + bytes - 16, 8);
		*(uint8_t *)(uintptr_t)table = l->lie == RING_STATUS && !i ? 9 : 0;
	}
	if (l->lie == RING_SCRIBBLE)
		memset(l->desc, 0xa5, RING * 16);
	l->seen = idx;
	told = (uint16_t)(l->lie == RING_TOO_MANY ? idx + 3 : idx);
	__atomic_store_n((uint16_t *)(void *)(l->used + 2), told, __ATOMIC_RELEASE);
	if (l->lie == RING_TALKS)
		cr_assert_eq(send(l->protocol.fd, "hello", 5, MSG_NOSIGNAL), 5);
	told = 1;
	cr_assert_eq(write(l->call, &(uint64_t){ 1 }, 8), 8);
}

static bool serve_protocol(struct ring_liar *l)
{
	uint32_t h[3];
	uint8_t payload[512];
	int fds[8];
	size_t n_fds;
	ssize_t n = fd_recv(l->protocol.fd, h, sizeof(h), fds, 8, &n_fds);

	if (n != sizeof(h) || h[2] > sizeof(payload) ||
	    (h[2] && !receive(l->protocol.fd, payload, h[2])))
		return false;
	take_ring(l, h[0], payload, n_fds == 1 ? fds[0] : -1);
	if (n_fds > 1)
		fd_close_many(fds, n_fds);
	return !(h[1] & 8 || h[0] == 1 || h[0] == 15 || h[0] == 17 || h[0] == 24) ||
	       answer(&l->protocol, h, payload);
}

static void *lying_ring(void *arg)
{
	struct ring_liar *l = arg;

	for (;;) {
		struct pollfd p[2] = { { .fd = l->protocol.fd, .events = POLLIN },
			               { .fd = l->kick, .events = POLLIN } };
		uint64_t count;

		if (poll(p, 2, 30000) <= 0 || (p[0].revents && !serve_protocol(l)))
			break;
		if (p[1].revents && read(l->kick, &count, 8) == 8)
			answer_ring(l);
	}
	close(l->protocol.fd);
	close(l->kick);
	close(l->call);
	return NULL;
}

/* Two requests of a ring that is served so; their statuses. */
static void serve_two(enum ring_lie lie, uint8_t status[2])
{
	struct ring_liar l = {
		.protocol = { .at = UINT32_MAX }, .lie = lie, .kick = -1, .call = -1
	};
	gpa_t data, at;
	int pair[2];
	pthread_t t;

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	l.protocol.fd = pair[1];
	pthread_create(&t, NULL, lying_ring, &l);
	cr_assert_eq(plug_in(pair[0], false), 0);
	pci_driver_probe(&driver, &m, SLOT);
	bring_up(0);
	data = guest_ram_put(&m.ram, NULL, 1024);
	at = guest_ram_put(&m.ram, "\xff\xff", 2);
	for (unsigned i = 0; i < 2; i++)
		offer(0, BLK_FLUSH, 0, data, GPA(at.v + i));
	pci_driver_wait_used(&driver, &queues[0], 1, NULL);
	pci_driver_wait_used(&driver, &queues[0], 1, NULL);
	memcpy(status, guest_ram_at(&m.ram, at), 2);
	virtio_device_pause(disk);
	transport = virtio_pci_free(transport);
	disk = virtio_device_free(disk);
	pthread_join(t, NULL);
	for (unsigned i = 0; i < QUEUES; i++)
		driver_queue_init(&queues[i], &m.ram, QUEUE_SIZE);
}

Test(vhost_user, a_ring_that_lies, .init = set_up, .fini = tear_down, .timeout = 60)
{
	for (enum ring_lie lie = 0; lie < _RING_LIE_MAX; lie++) {
		uint8_t status[2];

		serve_two(lie, status);
		if (lie == RING_RIGHT || lie == RING_SCRIBBLE || lie == RING_TALKS)
			cr_expect(status[0] == S_OK && status[1] == S_OK, "lie %d: %u, %u", lie,
			          status[0], status[1]);
		else if (lie == RING_STATUS)
			cr_expect(status[0] == S_IOERR && status[1] == S_OK, "%u, %u", status[0],
			          status[1]);
		else
			cr_expect(status[1] == S_IOERR, "lie %d: %u, %u", lie, status[0],
			          status[1]);
	}
}
