/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <criterion/criterion.h>
#include <errno.h>

#include "daemon/guest-fsm.h"

TestSuite(guest_fsm, .timeout = 10);

/* Every pair of state and event, against a table written down a second time, from the manual. */
static const signed char expected[_GUEST_STATE_MAX][_GUEST_EVENT_MAX] = {
#define ROW(start, runs, pauses, stop, given_up, suspend, suspended, discard, exit, crash, mute)   \
	{                                                                                          \
		[GUEST_EVENT_START] = start, [GUEST_EVENT_RUNS] = runs,                            \
		[GUEST_EVENT_PAUSES] = pauses, [GUEST_EVENT_STOP] = stop,                          \
		[GUEST_EVENT_STOP_GIVEN_UP] = given_up, [GUEST_EVENT_SUSPEND] = suspend,           \
		[GUEST_EVENT_SUSPENDED] = suspended, [GUEST_EVENT_DISCARD] = discard,              \
		[GUEST_EVENT_EXIT] = exit, [GUEST_EVENT_CRASH] = crash, [GUEST_EVENT_MUTE] = mute, \
		[GUEST_EVENT_UNDO_DEFINED] = -1, [GUEST_EVENT_UNDO_STOPPED] = -1,                  \
		[GUEST_EVENT_UNDO_SUSPENDED] = -1,                                                 \
	}
#define R GUEST_RUNNING
#define P GUEST_PAUSED
#define S GUEST_STARTING
#define G GUEST_STOPPING
#define D GUEST_SUSPENDING
#define Z GUEST_SUSPENDED
#define E GUEST_STOPPED
#define F GUEST_FAILED
#define U GUEST_UNRESPONSIVE
	[GUEST_DEFINED] = ROW(S, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1),
	[GUEST_STARTING] = ROW(-1, R, P, G, -1, -1, -1, -1, E, F, U),
	[GUEST_RUNNING] = ROW(-1, -1, P, G, -1, D, -1, -1, E, F, U),
	[GUEST_PAUSED] = ROW(-1, R, -1, G, -1, D, -1, -1, E, F, U),
	[GUEST_SUSPENDING] = ROW(-1, R, P, G, -1, -1, Z, -1, E, F, U),
	[GUEST_SUSPENDED] = ROW(S, -1, -1, -1, -1, -1, -1, E, -1, -1, -1),
	[GUEST_STOPPING] = ROW(-1, -1, P, -1, R, -1, -1, -1, E, F, U),
	[GUEST_STOPPED] = ROW(S, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1),
	[GUEST_FAILED] = ROW(S, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1),
	[GUEST_UNRESPONSIVE] = ROW(-1, R, P, G, -1, -1, -1, -1, E, F, -1),
};

Test(guest_fsm, every_pair)
{
	for (int s = 0; s < _GUEST_STATE_MAX; s++) {
		for (int e = 0; e < _GUEST_EVENT_MAX; e++) {
			int want = expected[s][e], got;

			if (s == GUEST_STARTING && e == GUEST_EVENT_UNDO_DEFINED)
				want = GUEST_DEFINED;
			if (s == GUEST_STARTING && e == GUEST_EVENT_UNDO_STOPPED)
				want = GUEST_STOPPED;
			if ((s == GUEST_STARTING || s == GUEST_UNRESPONSIVE) &&
			    e == GUEST_EVENT_UNDO_SUSPENDED)
				want = GUEST_SUSPENDED;
			got = guest_fsm_next((enum guest_state)s, (enum guest_event)e);
			cr_expect_eq(got, want < 0 ? -EPERM : want, "%s + %s -> %d, wanted %d",
			             guest_state_name((enum guest_state)s),
			             guest_event_name((enum guest_event)e), got, want);
		}
	}
}

Test(guest_fsm, names)
{
	for (int s = 0; s < _GUEST_STATE_MAX; s++)
		cr_assert_eq(guest_state_from_name(guest_state_name((enum guest_state)s)), s);
	cr_assert_eq(guest_state_from_name("flying"), -EINVAL);
}

Test(guest_fsm, live_states_have_a_way_to_end)
{
	for (int s = 0; s < _GUEST_STATE_MAX; s++)
		cr_assert_eq(guest_fsm_next((enum guest_state)s, GUEST_EVENT_EXIT) >= 0,
		             guest_state_is_live((enum guest_state)s) != 0);
}
