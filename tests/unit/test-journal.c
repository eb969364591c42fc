/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "daemon/journal.h"
#include "tests/unit/store-fixture.h"

TestSuite(journal, .timeout = 60, .fini = fixture_fini);

static int dir_fd;

static struct journal open_new(void)
{
	struct journal j;

	dir_fd = open(fixture_dir(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cr_assert_eq(journal_open(&j, dir_fd, "j"), 0);
	cr_assert_eq(j.epoch, 0);
	cr_assert_eq(journal_reserve(&j, 32768), 0);
	return j;
}

static struct journal reopen(struct journal *old)
{
	struct journal j;

	journal_close(old);
	cr_assert_eq(journal_open(&j, dir_fd, "j"), 0);
	return j;
}

static int append(struct journal *j, const char *text)
{
	struct journal_record rec = { .payload = text, .len = (uint32_t)strlen(text) };

	return journal_append(j, &rec, 1);
}

/* Number of good records; their payloads must be "record-N" in order. */
static unsigned check(struct journal *j, uint64_t limit)
{
	cleanup_free char *data = NULL;
	const char *payload;
	size_t pos = 0, len;
	uint64_t seq;
	unsigned n = 0;

	cr_assert_eq(journal_read(j, limit, false, &data), 0);
	while (journal_next(j, data, &pos, &seq, &payload, &len)) {
		char want[9];

		snprintf(want, sizeof(want), "record-%u", n % 10);
		cr_assert_eq(seq, j->first_seq + n);
		cr_assert_eq(len, 8);
		cr_assert_eq(memcmp(payload, want, 8), 0);
		n++;
	}
	return n;
}

static const char *const texts[] = { "record-0", "record-1", "record-2" };
#define RECORD_BYTES 40u

static struct journal three_records(void)
{
	struct journal j = open_new();

	cr_assert_eq(journal_start(&j, 7, 7, 100), 0);
	for (unsigned i = 0; i < 3; i++)
		cr_assert_eq(append(&j, texts[i]), 0);
	cr_assert_eq(j.tail, JOURNAL_DATA_START + 3 * RECORD_BYTES);
	return j;
}

Test(journal, records_come_back)
{
	struct journal j = three_records();

	j = reopen(&j);
	cr_assert_eq(j.epoch, 7);
	cr_assert_eq(j.first_seq, 100);
	cr_assert_eq(check(&j, UINT64_MAX), 3);
	cr_assert_eq(j.last_seq, 102);
	cr_assert_eq(check(&j, 101), 1, "records from the limit on are void");
	journal_close(&j);
}

Test(journal, truncated_at_every_byte)
{
	struct journal j = three_records();

	for (unsigned cut = 3 * RECORD_BYTES; cut--;) {
		cr_assert_eq(ftruncate(j.fd, JOURNAL_DATA_START + cut), 0);
		j = reopen(&j);
		cr_assert_eq(check(&j, UINT64_MAX), cut / RECORD_BYTES, "cut at %u", cut);
	}
	journal_close(&j);
}

Test(journal, flipped_at_every_byte)
{
	struct journal j = three_records();

	for (unsigned at = 0; at < 3 * RECORD_BYTES; at++) {
		char c, bad;

		cr_assert_eq(pread(j.fd, &c, 1, JOURNAL_DATA_START + at), 1);
		bad = (char)(c ^ (1 << at % 8));
		cr_assert_eq(pwrite(j.fd, &bad, 1, JOURNAL_DATA_START + at), 1);
		cr_assert_eq(check(&j, UINT64_MAX), at / RECORD_BYTES, "flip at %u", at);
		cr_assert_eq(pwrite(j.fd, &c, 1, JOURNAL_DATA_START + at), 1);
	}
	cr_assert_eq(check(&j, UINT64_MAX), 3);
	journal_close(&j);
}

Test(journal, rotten_header_is_no_journal)
{
	struct journal j = three_records();

	for (unsigned at = 0; at < 48; at++) {
		char c, bad;

		cr_assert_eq(pread(j.fd, &c, 1, at), 1);
		bad = (char)(c ^ 0x10);
		cr_assert_eq(pwrite(j.fd, &bad, 1, at), 1);
		j = reopen(&j);
		cr_assert_eq(j.epoch, 0, "flip at %u", at);
		cr_assert_eq(pwrite(j.fd, &c, 1, at), 1);
	}
	journal_close(&j);
}

Test(journal, earlier_lives_are_void)
{
	struct journal j = three_records();

	/* Same place, same numbers: only the epoch tells them apart. */
	cr_assert_eq(journal_start(&j, 8, 8, 100), 0);
	cr_assert_eq(check(&j, UINT64_MAX), 0);
	cr_assert_eq(append(&j, texts[0]), 0);
	j = reopen(&j);
	cr_assert_eq(j.epoch, 8);
	cr_assert_eq(check(&j, UINT64_MAX), 1);
	journal_close(&j);
}

static int fail_sync(const char *call, void *userdata)
{
	(void)userdata;
	return strcmp(call, "fdatasync") == 0 ? EIO : 0;
}

Test(journal, neutralised_record_is_not_read)
{
	struct fixture_faults faults = { .before = fail_sync };
	struct journal j = three_records();

	fixture_set_faults(&faults);
	cr_assert_eq(append(&j, "record-3"), -EIO);
	fixture_set_faults(NULL);
	cr_assert_eq(check(&j, UINT64_MAX), 4, "it did reach the file");
	j.tail -= RECORD_BYTES;
	journal_neutralise(&j);
	cr_assert_eq(check(&j, UINT64_MAX), 3);
	journal_close(&j);
}

Test(journal, grows_and_shrinks)
{
	struct journal j = three_records();
	struct stat st;

	cr_assert_eq(journal_grow(&j, 100000), 0);
	cr_assert_eq(j.size, 100000);
	cr_assert_eq(check(&j, UINT64_MAX), 3);
	cr_assert_eq(journal_reserve(&j, 32768), 0);
	cr_assert_eq(fstat(j.fd, &st), 0);
	cr_assert_eq(st.st_size, 32768);
	journal_close(&j);
}

static int no_space(const char *call, void *userdata)
{
	(void)userdata;
	return strcmp(call, "pwrite") == 0 ? ENOSPC : 0;
}

Test(journal, growing_without_space_changes_nothing)
{
	struct fixture_faults faults = { .before = no_space, .half = true };
	struct journal j = three_records();
	struct stat st;

	fixture_set_faults(&faults);
	cr_assert_eq(journal_grow(&j, 100000), -ENOSPC);
	cr_assert_eq(fstat(j.fd, &st), 0);
	cr_assert_eq(st.st_size, 32768);
	cr_assert_eq(check(&j, UINT64_MAX), 3);
	journal_close(&j);
}
