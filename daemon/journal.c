/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "daemon/journal.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>
#include <xxhash.h>

#include "common/cleanup.h"
#include "common/macros.h"

#define HEADER_MAGIC "VMDJRNL"
#define RECORD_MAGIC 0x31524a56u /* "VJR1" */

struct disk_header {
	char magic[8];
	uint32_t version;
	uint32_t reserved;
	uint64_t epoch;
	uint64_t base_epoch;
	uint64_t first_seq;
	uint64_t sum; /* XXH3-64 of the fields above */
};

static uint64_t record_sum(const struct journal_record_header *h, const void *payload, size_t len)
{
	uint64_t seed = XXH3_64bits(h, offsetof(struct journal_record_header, sum));

	return XXH3_64bits_withSeed(payload, len, seed);
}

static int write_at(int fd, const void *data, size_t len, uint64_t offset)
{
	const char *p = data;

	while (len) {
		ssize_t n = pwrite(fd, p, len, (off_t)offset);

		if (n < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		p += n;
		len -= (size_t)n;
		offset += (uint64_t)n;
	}
	return 0;
}

static ssize_t read_at(int fd, void *data, size_t len, uint64_t offset)
{
	char *p = data;
	size_t done = 0;

	while (done < len) {
		ssize_t n = pread(fd, p + done, len - done, (off_t)(offset + done));

		if (n < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		if (n == 0)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

static int read_header(struct journal *j)
{
	struct disk_header h;
	ssize_t n = read_at(j->fd, &h, sizeof(h), 0);

	if (n < 0)
		return (int)n;
	if (n != (ssize_t)sizeof(h) || memcmp(h.magic, HEADER_MAGIC, sizeof(h.magic)) != 0 ||
	    le64toh(h.sum) != XXH3_64bits(&h, offsetof(struct disk_header, sum)))
		return 0;
	if (le32toh(h.version) > JOURNAL_VERSION)
		return -EPROTONOSUPPORT;
	j->epoch = le64toh(h.epoch);
	j->base_epoch = le64toh(h.base_epoch);
	j->first_seq = le64toh(h.first_seq);
	j->last_seq = j->first_seq - 1;
	return 0;
}

int journal_open(struct journal *j, int dir_fd, const char *name)
{
	struct stat st;

	*j = (struct journal)JOURNAL_INIT;
	j->tail = JOURNAL_DATA_START;
	j->fd = openat(dir_fd, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (j->fd < 0 && (errno == EROFS || errno == EACCES || errno == ENOSPC)) {
		j->readonly = true;
		j->fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
		if (j->fd < 0 && errno == ENOENT)
			return 0; /* nothing to read, nothing can be written */
	}
	if (j->fd < 0)
		return -errno;
	if (fstat(j->fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	j->size = (uint64_t)st.st_size;
	return read_header(j);
}

void journal_close(struct journal *j)
{
	cleanup_close_p(&j->fd);
}

static int fill_zeros(struct journal *j, uint64_t from, uint64_t to)
{
	static const char zeros[65536];
	int r = 0;

	while (from < to && r == 0) {
		size_t n = (size_t)MIN_OF(to - from, sizeof(zeros));

		r = write_at(j->fd, zeros, n, from);
		from += n;
	}
	return r;
}

int journal_grow(struct journal *j, uint64_t bytes)
{
	int r;

	if (bytes <= j->size)
		return 0;
	if (j->readonly)
		return -EROFS;
	r = fill_zeros(j, j->size, bytes);
	if (r == 0 && fsync(j->fd) < 0)
		r = -errno;
	if (r == 0)
		j->size = bytes;
	else if (ftruncate(j->fd, (off_t)j->size) < 0)
		return r; /* longer than we use: harmless */
	return r;
}

/* Is there a record of the present life at data + pos, with this number? */
static bool record_at(const struct journal *j, const char *data, size_t len, size_t pos,
                      uint64_t seq, size_t *ret_len)
{
	struct journal_record_header h;

	if (pos + sizeof(h) > len)
		return false;
	memcpy(&h, data + pos, sizeof(h));
	*ret_len = le32toh(h.length);
	return le32toh(h.magic) == RECORD_MAGIC && le64toh(h.epoch) == j->epoch &&
	       le64toh(h.seq) == seq && *ret_len % 8 == 0 && *ret_len <= len - pos - sizeof(h) &&
	       le64toh(h.sum) == record_sum(&h, data + pos + sizeof(h), *ret_len);
}

int journal_read(struct journal *j, uint64_t seq_limit, bool trusted_tail, char **ret_data)
{
	uint64_t end = trusted_tail ? j->tail : j->size;
	cleanup_free char *data = NULL;
	size_t len, pos = 0, n;
	ssize_t got;

	len = j->fd >= 0 && j->epoch && end > JOURNAL_DATA_START
	              ? (size_t)(end - JOURNAL_DATA_START)
	              : 0;
	data = malloc(len + 1);
	if (!data)
		return -ENOMEM;
	got = len ? read_at(j->fd, data, len, JOURNAL_DATA_START) : 0;
	if (got < 0)
		return (int)got;
	j->last_seq = j->first_seq - 1;
	while (j->last_seq + 1 < seq_limit &&
	       record_at(j, data, (size_t)got, pos, j->last_seq + 1, &n)) {
		pos += (size_t)journal_record_bytes(n);
		j->last_seq++;
	}
	j->tail = JOURNAL_DATA_START + pos;
	*ret_data = TAKE_PTR(data);
	return 0;
}

bool journal_next(const struct journal *j, const char *data, size_t *pos, uint64_t *ret_seq,
                  const char **ret_payload, size_t *ret_len)
{
	struct journal_record_header h;

	if (*pos + JOURNAL_DATA_START >= j->tail)
		return false;
	memcpy(&h, data + *pos, sizeof(h));
	*ret_seq = le64toh(h.seq);
	*ret_len = le32toh(h.length);
	*ret_payload = data + *pos + sizeof(h);
	*pos += (size_t)journal_record_bytes(*ret_len);
	return true;
}

/* On a small disk the journal takes no more than an eighth of what is free. */
static uint64_t affordable(int fd, uint64_t bytes)
{
	struct statvfs vfs;
	uint64_t limit;

	if (fstatvfs(fd, &vfs) < 0)
		return bytes;
	limit = (uint64_t)vfs.f_bavail * vfs.f_frsize / 8;
	limit = MAX_OF(limit, (uint64_t)JOURNAL_MIN_BYTES);
	return MIN_OF(bytes, limit & ~(uint64_t)4095);
}

int journal_reserve(struct journal *j, uint64_t bytes)
{
	if (j->readonly)
		return -EROFS;
	if (j->size > bytes && ftruncate(j->fd, (off_t)bytes) == 0)
		j->size = bytes;
	if (j->size < bytes)
		(void)journal_grow(j, MAX_OF(j->size, affordable(j->fd, bytes)));
	return j->size > JOURNAL_DATA_START ? 0 : journal_grow(j, JOURNAL_MIN_BYTES);
}

int journal_start(struct journal *j, uint64_t epoch, uint64_t base_epoch, uint64_t first_seq)
{
	struct disk_header h = { .magic = HEADER_MAGIC,
		                 .version = htole32(JOURNAL_VERSION),
		                 .epoch = htole64(epoch),
		                 .base_epoch = htole64(base_epoch),
		                 .first_seq = htole64(first_seq) };
	int r;

	h.sum = htole64(XXH3_64bits(&h, offsetof(struct disk_header, sum)));
	r = write_at(j->fd, &h, sizeof(h), 0);
	if (r < 0)
		return r;
	if (fdatasync(j->fd) < 0)
		return -errno;
	j->epoch = epoch;
	j->base_epoch = base_epoch;
	j->first_seq = first_seq;
	j->last_seq = first_seq - 1;
	j->last_event = 0;
	j->recovered = false;
	j->tail = JOURNAL_DATA_START;
	return 0;
}

int journal_resume(struct journal *j)
{
	cleanup_free char *data = malloc((size_t)j->tail);
	ssize_t n;
	int r;

	if (!data)
		return -ENOMEM;
	if (j->readonly)
		return -EROFS;
	n = read_at(j->fd, data, (size_t)j->tail, 0);
	if (n != (ssize_t)j->tail)
		return n < 0 ? (int)n : -EIO;
	r = write_at(j->fd, data, (size_t)j->tail, 0);
	if (r == 0)
		r = fill_zeros(j, j->tail, j->size);
	if (r == 0 && fdatasync(j->fd) < 0)
		r = -errno;
	return r;
}

/* Writes all of iov (at most 2 * IOV_MAX entries, changed on the way) at offset. */
static int write_vector(int fd, struct iovec *iov, size_t n, uint64_t offset)
{
	while (n) {
		ssize_t done = pwritev(fd, iov, (int)MIN_OF(n, (size_t)IOV_MAX), (off_t)offset);

		if (done < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		if (done == 0)
			return -EIO;
		offset += (uint64_t)done;
		while (n && (size_t)done >= iov->iov_len) {
			done -= (ssize_t)iov->iov_len;
			iov++;
			n--;
		}
		if (n) {
			iov->iov_base = (char *)iov->iov_base + done;
			iov->iov_len -= (size_t)done;
		}
	}
	return 0;
}

int journal_append(struct journal *j, struct journal_record *records, size_t n)
{
	cleanup_free struct iovec *iov = calloc(n, 2 * sizeof(*iov));
	uint64_t bytes = 0;
	int r;

	if (!iov)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		struct journal_record *rec = &records[i];

		rec->header.magic = htole32(RECORD_MAGIC);
		rec->header.length = htole32(rec->len);
		rec->header.epoch = htole64(j->epoch);
		rec->header.seq = htole64(j->last_seq + 1 + i);
		rec->header.sum = htole64(record_sum(&rec->header, rec->payload, rec->len));
		iov[2 * i] = (struct iovec){ &rec->header, sizeof(rec->header) };
		iov[2 * i + 1] = (struct iovec){ (void *)(uintptr_t)rec->payload, rec->len };
		bytes += journal_record_bytes(rec->len);
	}
	r = write_vector(j->fd, iov, 2 * n, j->tail);
	if (r < 0)
		return r;
	if (fdatasync(j->fd) < 0)
		return -errno;
	j->tail += bytes;
	j->last_seq += n;
	return 0;
}

void journal_neutralise(struct journal *j)
{
	static const struct journal_record_header none;

	if (!j->readonly && write_at(j->fd, &none, sizeof(none), j->tail) == 0)
		(void)fdatasync(j->fd);
}
