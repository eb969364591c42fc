/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once
/* The tests of bare.elf. Each prints what it sees in lines "NAME: ..." and gives the result. */
#include <stdbool.h>

bool test_hello(void);
bool test_echo(void);
bool test_idle(void);
