/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include "devices/stats-json.h"

static json_int_t get(const _Atomic uint64_t *v)
{
	return (json_int_t)__atomic_load_n((const uint64_t *)v, __ATOMIC_RELAXED);
}

static json_t *one(const struct iostats *s)
{
	json_t *latency = json_array();

	for (unsigned i = 0; latency && i < IOSTATS_BUCKETS; i++)
		json_array_append_new(latency, json_integer(get(&s->latency[i])));
	return json_pack("{sI sI sI sI so}", "operations", get(&s->operations), "bytes",
	                 get(&s->bytes), "errors", get(&s->errors), "total_ns", get(&s->total_ns),
	                 "latency_us", latency);
}

json_t *iostats_members(const struct iostats *stats, const char *const *names, unsigned n)
{
	json_t *all = json_object();

	for (unsigned i = 0; all && i < n; i++)
		json_object_set_new(all, names[i], one(&stats[i]));
	return all;
}
