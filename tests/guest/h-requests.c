/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Requests that are well-formed chains and say what no driver would. */
#include "blk.h"
#include "hostile.h"
#include "lib/guest.h"
#include "victim.h"

#define PIECES_MAX 6u

/* One request: its readable and writable pieces, one after the other in the victim's buffer. */
struct lie {
	const char
		*name; /* with a * in front when QEMU 7.2 dies of it: left out with option "qemu" */
	uint8_t n_out, n_in;
	uint32_t len[PIECES_MAX];
	uint8_t bytes[48]; /* what the readable part begins with */
};

static const struct lie blk_lies[] = {
	{ "nothing but a status", 0, 1, { 1 }, { 0 } },
	{ "no status", 1, 0, { 16 }, { 0 } },
	{ "header of 8 bytes", 1, 1, { 8, 1 }, { 0 } },
	{ "header in the middle of data", 1, 2, { 17, 512, 1 }, { 0 } },
	{ "read of nothing", 1, 1, { 16, 1 }, { 0 } },
	{ "write of nothing", 1, 1, { 16, 1 }, { 1 } },
	{ "status of 2 bytes", 1, 1, { 16, 2 }, { 4 } },
	{ "status of 0 bytes", 1, 1, { 16, 0 }, { 4 } },
	{ "type 2^32 - 1", 1, 2, { 16, 512, 1 }, { 0xFF, 0xFF, 0xFF, 0xFF } },
	{ "last sector number",
	  1,
	  2,
	  { 16, 512, 1 },
	  { 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF } },
	{ "read with data to read", 2, 1, { 16, 512, 1 }, { 0 } },
	{ "write with data to write", 1, 2, { 16, 512, 1 }, { 1 } },
	{ "identity of 3 bytes", 1, 2, { 16, 3, 1 }, { 8 } },
	{ "identity of 4096 bytes", 1, 2, { 16, 4096, 1 }, { 8 } },
	{ "discard of nothing", 1, 1, { 16, 1 }, { 11 } },
	{ "discard of half a range", 2, 1, { 16, 8, 1 }, { 11 } },
	{ "discard of 1024 ranges", 2, 1, { 16, 16384, 1 }, { 11 } },
	{ "zeroes past the end",
	  2,
	  1,
	  { 16, 16, 1 },
	  { 13, 0, 0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0,
	    0,  0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF } },
	{ "flush with data", 1, 2, { 16, 512, 1 }, { 4 } },
};

static const struct lie net_lies[] = {
	{ "*header alone", 1, 0, { 12 }, { 0 } },
	{ "*half a header", 1, 0, { 5 }, { 0 } },
	{ "one byte of frame", 1, 0, { 13 }, { 0 } },
	{ "frame of 60000 bytes", 1, 0, { 60000 }, { 0 } },
	{ "segments of an unknown kind",
	  1,
	  0,
	  { 1000 },
	  { 1, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF } },
	{ "segments of 0 bytes", 1, 0, { 1000 }, { 0, 1, 54, 0, 0, 0, 34, 0, 16, 0 } },
	{ "segments of 1 byte", 1, 0, { 60000 }, { 1, 1, 54, 0, 1, 0, 34, 0, 16, 0 } },
	{ "checksum past the end", 1, 0, { 100 }, { 1, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF } },
	{ "header in six pieces", 6, 0, { 1, 1, 1, 1, 8, 60 }, { 0 } },
};

static const struct lie balloon_lies[] = {
	{ "3 bytes", 1, 0, { 3 }, { 0xFF, 0xFF, 0xFF } },
	{ "frame 2^32 - 1", 1, 0, { 4 }, { 0xFF, 0xFF, 0xFF, 0xFF } },
	{ "frame of the APIC", 1, 0, { 4 }, { 0x00, 0xEE, 0x0F, 0x00 } },
	{ "one frame and a half", 1, 0, { 6 }, { 0xFF, 0xFF, 0xFF, 0x7F, 1, 1 } },
	{ "60000 bytes of frames far away", 1, 0, { 60000 }, { 0 } },
};

static const struct lie console_lies[] = {
	{ "nothing", 1, 0, { 0 }, { 0 } },
	{ "64 KiB without an end", 1, 0, { 65535 }, { 0 } },
	{ "six pieces", 6, 0, { 1, 0, 1, 0, 1, 0 }, { 'a' } },
};

static const struct lie rng_lies[] = {
	{ "one byte", 0, 1, { 1 }, { 0 } },
	{ "64 KiB", 0, 1, { 65535 }, { 0 } },
	{ "six pieces", 0, 6, { 1, 0, 1, 0, 1, 7 }, { 0 } },
};

static bool tell(struct victim *v, const struct lie *lie)
{
	struct virtq *q;
	uint8_t *buffer = victim_buffer();
	uint64_t at = (uint64_t)buffer;
	unsigned n = lie->n_out + lie->n_in;
	enum outcome o;

	TRY(victim_start(v));
	q = victim_queue(v);
	/* Far away is where no RAM is. */
	if (v->kind->type == VIRTIO_BALLOON && !lie->bytes[0])
		memset(buffer, 0xFE, BUFFER_BYTES);
	memcpy(buffer, lie->bytes, lie->bytes[0] || v->kind->type != VIRTIO_BALLOON ? 48 : 0);
	for (unsigned i = 0; i < n; i++) {
		put_desc(q, i, at, lie->len[i],
		         (i >= lie->n_out ? DESC_WRITE : 0u) | (i + 1 < n ? DESC_NEXT : 0u), i + 1);
		at += lie->len[i];
	}
	virtq_publish(q, 0);
	o = victim_outcome(v, 0);
	print("requests: %s: %s: %s\n", v->kind->name, lie->name, outcome_name(o));
	if (option("strict") && o == OUTCOME_SILENT)
		return fail("%s: no answer to: %s", v->kind->name, lie->name);
	return victim_works(v);
}

static bool lie_to(struct victim *v)
{
	static const struct {
		const char *kind;
		const struct lie *lies;
		size_t n;
	} all[] = {
		{ "blk", blk_lies, ARRAY_SIZE(blk_lies) },
		{ "net-tx", net_lies, ARRAY_SIZE(net_lies) },
		{ "balloon", balloon_lies, ARRAY_SIZE(balloon_lies) },
		{ "console-tx", console_lies, ARRAY_SIZE(console_lies) },
		{ "rng", rng_lies, ARRAY_SIZE(rng_lies) },
	};

	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		for (size_t j = 0; strcmp(all[i].kind, v->kind->name) == 0 && j < all[i].n; j++)
			if (all[i].lies[j].name[0] != '*' || !option("qemu"))
				TRY(tell(v, &all[i].lies[j]));
	return true;
}

bool test_requests(void)
{
	return for_victims(lie_to);
}
