/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "common/macros.h"
#include "tests/fuzz/fuzz.h"
#include "vmm/guest-config.h"

/*
 * The monitor's configuration. The input is the document; begun with '+' it is members added to a
 * good one. What is refused says why; what is accepted is within the bounds that the rest of the
 * monitor relies on, and names each descriptor once.
 */

#define FIRST_FD 50
#define LAST_FD  59

#define GOOD                                                                      \
	"{\"version\":1,\"name\":\"g\",\"uuid\":\"u\",\"kvm_fd\":50,"             \
	"\"memory\":{\"bytes\":134217728},\"boot\":{\"kernel_fd\":51,\"cmdline\"" \
	":\"quiet\"}"

static bool is_text(const char *s, size_t bytes)
{
	return memchr(s, 0, bytes) != NULL;
}

static void check_disk(const struct vmm_disk *d)
{
	FUZZ_CHECK(is_text(d->id, sizeof(d->id)) && is_text(d->serial, sizeof(d->serial)));
	FUZZ_CHECK((d->fd < 0) != (d->vhost_user_fd < 0));
	FUZZ_CHECK(d->queues >= 1 && d->queues <= 16 && d->cache <= BLK_CACHE_UNSAFE);
}

static void check(const struct vmm_config *c)
{
	FUZZ_CHECK(is_text(c->name, sizeof(c->name)) && is_text(c->uuid, sizeof(c->uuid)));
	FUZZ_CHECK(is_text(c->cmdline, sizeof(c->cmdline)));
	FUZZ_CHECK(c->memory_bytes >= VMM_MIN_MEMORY && c->memory_bytes <= VMM_MAX_MEMORY);
	FUZZ_CHECK(c->memory_bytes % 4096 == 0 && c->hugepages <= VMM_PAGES_1G);
	FUZZ_CHECK(c->cpus.count >= 1 && c->cpus.count <= VMM_MAX_CPUS);
	FUZZ_CHECK(c->cpus.sockets * c->cpus.cores * c->cpus.threads == c->cpus.count);
	FUZZ_CHECK(c->cpus.model <= VMM_CPU_V4 && c->kvm_fd >= 0 && c->kernel_fd >= 0);
	FUZZ_CHECK(c->n_ports < VIRTIO_CONSOLE_MAX_PORTS && c->n_disks <= VMM_MAX_DISKS);
	FUZZ_CHECK(c->n_nics <= VMM_MAX_NICS && c->on_panic <= VMM_PANIC_NONE);
	for (unsigned i = 0; i < c->n_ports; i++)
		FUZZ_CHECK(is_text(c->ports[i].name, sizeof(c->ports[i].name)));
	for (unsigned i = 0; i < c->n_disks; i++)
		check_disk(&c->disks[i]);
	for (unsigned i = 0; i < c->n_nics; i++)
		FUZZ_CHECK(c->nics[i].n_taps <= VIRTIO_NET_MAX_PAIRS && c->nics[i].mtu <= 65535 &&
		           !(c->nics[i].n_taps && c->nics[i].stream_fd >= 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char text[65536 + sizeof(GOOD)];
	static struct vmm_config c;
	struct vmd_error err = VMD_ERROR_INIT;
	size_t len = MIN_OF(size, 65536u);
	int r;

	if (fcntl(FIRST_FD, F_GETFD) < 0)
		for (int fd = FIRST_FD; fd <= LAST_FD; fd++)
			FUZZ_CHECK(dup2(STDERR_FILENO, fd) == fd);
	if (len && data[0] == '+') {
		memcpy(text, GOOD, sizeof(GOOD) - 1);
		memcpy(text + sizeof(GOOD) - 1, data + 1, len - 1);
		len += sizeof(GOOD) - 2;
		text[len++] = '}';
	} else {
		memcpy(text, data, len);
	}
	r = vmm_config_parse(text, len, &c, &err);
	FUZZ_CHECK((r < 0) == (err.kind != ERROR_NONE) && (r == 0 || *err.message));
	if (r == 0)
		check(&c);
	return 0;
}
