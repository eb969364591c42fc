/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* One call's change of one guest: found, allowed, in its turn, and let go at the end of the scope.
 */
#include "daemon/guest.h"
#include "daemon/rpc.h"

struct guest_change {
	struct guest *g; /* NULL until begun */
	bool locked;
};
#define GUEST_CHANGE_INIT \
	{                 \
		.g = NULL \
	}

/* The guest that params.vm names, for reading. NULL with err (not_found, with a near name as hint).
 */
struct guest *guest_of_call(struct call *call, struct vmd_error *err);

/*
 * Finds the guest, checks that the caller may change it (owner or admin), waits for its turn and
 * then checks if_generation. verb is for messages ("start"). Waits. Work that would destroy what a
 * job is busy with passes refuse_when_busy: then a running job means ERROR_BUSY with its id.
 */
int guest_change_begin(struct call *call, const char *verb, bool refuse_when_busy,
                       struct guest_change *c, struct vmd_error *err);
/* As above without the turn: for vm.kill, which never waits behind slow work. */
int guest_change_begin_unlocked(struct call *call, const char *verb, struct guest_change *c,
                                struct vmd_error *err);
void guest_change_end(struct guest_change *c);
#define cleanup_guest_change __attribute__((cleanup(guest_change_end)))

/* {"uuid","name","generation","event","state"}: what a change answers; new reference. */
json_t *guest_change_json(const struct guest *g);
/* The same as the reply to a change. */
void guest_reply(struct call *call, const struct guest *g);
