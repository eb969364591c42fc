/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <criterion/criterion.h>

#include "devices/net-hdr.h"

struct header_case {
	struct net_hdr h;
	uint64_t features;
	uint32_t bytes;
	bool ok;
};

#define CSUM (1ull << NET_F_CSUM)
#define TSO4 (CSUM | 1ull << NET_F_HOST_TSO4)
#define TSO6 (CSUM | 1ull << NET_F_HOST_TSO6)
#define ECN4 (TSO4 | 1ull << NET_F_HOST_ECN)

/* flags, type, hdr_len, gso_size, csum_start, csum_offset, num_buffers */
static const struct header_case cases[] = {
	{ { 0 }, 0, 14, true },
	{ { 0 }, 0, 13, false },
	{ { 0 }, 0, 0, false },
	{ { 0 }, 0, 65589, true },
	{ { 0 }, 0, 65590, false },
	{ { 1, 0, 0, 0, 34, 16, 0 }, 0, 100, false }, /* CSUM not agreed on */
	{ { 1, 0, 0, 0, 34, 16, 0 }, CSUM, 100, true },
	{ { 1, 0, 0, 0, 34, 16, 0 }, CSUM, 52, true },
	{ { 1, 0, 0, 0, 34, 16, 0 }, CSUM, 51, false },
	{ { 1, 0, 0, 0, 13, 16, 0 }, CSUM, 100, false },
	{ { 1, 0, 0, 0, 0xffff, 0xffff, 0 }, CSUM, 65589, false },
	{ { 1, 0, 0, 0, 34, 0xfff0, 0 }, CSUM, 100, false },
	{ { 2, 0, 0, 0, 0xffff, 0, 0 }, 0, 100, true }, /* flags that say nothing here */
	{ { 1, 1, 54, 1448, 34, 16, 0 }, TSO4, 20000, true },
	{ { 1, 1, 0, 1448, 34, 16, 0 }, TSO4, 20000, true }, /* hdr_len is a hint */
	{ { 1, 1, 54, 1448, 34, 16, 0 }, CSUM, 20000, false },
	{ { 1, 1, 54, 1448, 34, 16, 0 }, TSO6, 20000, false },
	{ { 1, 4, 74, 1428, 54, 16, 0 }, TSO6, 20000, true },
	{ { 1, 4, 74, 1428, 54, 16, 0 }, TSO4, 20000, false },
	{ { 1, 0x81, 54, 1448, 34, 16, 0 }, TSO4, 20000, false },
	{ { 1, 0x81, 54, 1448, 34, 16, 0 }, ECN4, 20000, true },
	{ { 0, 1, 54, 1448, 34, 16, 0 }, TSO4, 20000, false }, /* without NEEDS_CSUM */
	{ { 1, 1, 54, 0, 34, 16, 0 }, TSO4, 20000, false },    /* segments of nothing */
	{ { 1, 1, 54, 7, 34, 16, 0 }, TSO4, 20000, false },
	{ { 1, 1, 20001, 1448, 34, 16, 0 }, TSO4, 20000, false },
	{ { 1, 1, 513, 1448, 34, 16, 0 }, TSO4, 20000, false },
	{ { 1, 1, 54, 1448, 34, 6, 0 }, TSO4, 20000, false },     /* UDP's checksum */
	{ { 1, 1, 54, 1448, 19000, 16, 0 }, TSO4, 20000, false }, /* headers of 19 kB */
	{ { 1, 1, 54, 1448, 34, 16, 0 }, TSO4, 54, false },       /* nothing but headers */
	{ { 1, 3, 42, 1448, 34, 6, 0 }, TSO4, 20000, false },     /* UDP fragmentation */
	{ { 1, 5, 42, 1448, 34, 6, 0 }, TSO4, 20000, false },
	{ { 1, 0x80, 54, 1448, 34, 16, 0 }, ECN4, 20000, false },
};

TestSuite(net_hdr, .timeout = 10);

Test(net_hdr, check)
{
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct net_hdr h = cases[i].h;

		cr_expect_eq(net_hdr_check(&h, cases[i].features, cases[i].bytes), cases[i].ok,
		             "case %u", i);
	}
}
