/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "lib/guest.h"
#include "tests.h"

const struct guest_test guest_tests[] = {
	{ "hello", test_hello },
	{ "echo", test_echo },
	{ "idle", test_idle },
	{ NULL, NULL },
};
