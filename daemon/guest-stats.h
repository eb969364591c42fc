/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* What a live guest has used so far, in one shape for every engine. */
#include <jansson.h>

#include "daemon/guest.h"

/* vm.stats' result (new reference). Members that the engine cannot tell are absent. Waits (fiber).
 * Negative errno with err when the engine does not answer. */
int guest_stats(struct guest *g, json_t **ret, struct vmd_error *err);

/* Has the engine sort the requests of each disk by latency from now on. Of QEMU that has to be
 * asked for; one that cannot do it goes without. Waits (fiber). */
void guest_stats_prepare(struct guest *g);
